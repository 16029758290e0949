"""The house itself: what the documents promise about files, and what nothing else would notice."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import attnlang
from attnlang.options import VARIABLES

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.attn"))
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")]
)
TEXT_SUFFIXES = {".py", ".md", ".h", ".cpp", ".attn", ".lark", ".toml", ".txt", ".j2", ".yaml", ""}


def project_files() -> list[Path]:
    """Everything that is or would be committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    return [p for p in paths if p.suffix in TEXT_SUFFIXES and p.is_file()]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_is_short_and_says_what_it_is(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 15
    comment = [line for line in lines if line.startswith("#")]
    assert lines[: len(comment)] == comment
    assert len(comment) >= 2
    assert any(line.startswith("# Source: ") for line in comment)
    assert re.search(rf"^attention {path.stem}\b", "\n".join(lines), re.MULTILINE)


def test_the_gallery_lists_every_example_with_its_parameters() -> None:
    rows = re.findall(
        r"^\| \[`(\w+)`\]\(\.\./examples/(\w+)\.attn\) \| .* \| (.*) \| [^|]* \|$",
        (ROOT / "docs/gallery.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert all(shown == linked for shown, linked, _ in rows)
    assert sorted(name for name, _, _ in rows) == [p.stem for p in EXAMPLES]
    for name, _, cell in rows:
        text = (ROOT / f"examples/{name}.attn").read_text(encoding="utf-8")
        (header,) = re.findall(rf"^attention {name}(.*?):\n", text, re.MULTILINE | re.DOTALL)
        declared = re.sub(r"\s+", " ", header).strip("() ").rstrip(",")
        assert ", ".join(re.findall(r"`(.*?)`", cell)) == declared


def test_the_readme_counts_the_examples() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"\n{len(EXAMPLES)} variants of the literature" in text


def test_the_readme_shows_the_first_spec_as_it_is() -> None:
    example = (ROOT / "examples/gemma2_local.attn").read_text(encoding="utf-8")
    body = [line for line in example.splitlines() if not line.startswith("#")]
    shown = "\n".join(f"    {line}" for line in body)
    assert shown in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        other = (page.parent / name).resolve() if name else page
        assert other.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(other), f"{page.name}: {target}"


def test_decisions_are_numbered_and_fit_on_a_page() -> None:
    pages = sorted((ROOT / "docs/decisions").glob("*.md"))
    assert [int(p.name[:4]) for p in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        lines = page.read_text(encoding="utf-8").splitlines()
        assert lines[0].startswith(f"# {int(page.name[:4])}. ")
        assert len(lines) <= 60


def test_data_folders_are_no_packages_and_name_their_python_side() -> None:
    for folder in ("grammar", "codegen", "runtime"):
        assert not list((ROOT / folder).rglob("__init__.py"))
        readme = (ROOT / folder / "README.md").read_text(encoding="utf-8")
        assert "attnlang/" in readme
        assert len(readme.splitlines()) <= 20


def test_every_module_says_what_it_is() -> None:
    for path in (ROOT / "attnlang").rglob("*.py"):
        if "_data" not in path.parts:
            assert path.read_text(encoding="utf-8").startswith(('"""', 'r"""')), path


def test_nothing_is_left_for_later() -> None:
    # Spelled apart, or this file would find itself.
    markers = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in project_files()
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1)
        if markers.search(line)
    ]
    assert not found


def test_structs_lie_alike_on_host_and_device() -> None:
    """nvcc takes a member marked [[no_unique_address]] for larger in device code than on hosts."""
    sources = [p for top in ("runtime", "codegen") for p in (ROOT / top).rglob("*") if p.is_file()]
    assert len(sources) > 50
    for path in sources:
        code = re.sub(r"//.*", "", path.read_text(encoding="utf-8"))
        assert "no_unique_address" not in code, path


def test_test_modules_have_unique_names() -> None:
    names = [p.name for p in (ROOT / "tests").rglob("*.py") if p.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))


def test_only_torch_is_pinned_and_it_satisfies_the_project() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [pin.partition("==")[0] for pin in pins] == ["torch"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (lower,) = (d for d in project["dependencies"] if d.startswith("torch>="))
    pinned = pins[0].partition("==")[2].split(".")
    assert [int(n) for n in pinned[:2]] >= [int(n) for n in lower[7:].split(".")]


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert [line.split()[0] for line in shown.splitlines()] == phony.split()


def test_ci_runs_what_the_readme_says() -> None:
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
    assert "set -euo pipefail" in script
    runs = re.findall(r"^(?:timeout \S+ )?make ([a-z-]+)", script, re.MULTILINE)
    assert runs == ["setup", "check", "test", "test-slow"]
    assert "make test " in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_manual_lists_every_option() -> None:
    rows = [f"| `{v.name}` | {v.meaning} | {v.default} |" for v in VARIABLES]
    manual = (ROOT / "docs/build.md").read_text(encoding="utf-8")
    assert "\n".join(rows) in manual
    assert set(re.findall(r"ATTNLANG_\w+", manual)) == {v.name for v in VARIABLES}


def test_only_options_reads_attnlang_variables() -> None:
    reads = re.compile(r"(environ(\.get)?|getenv)\s*[\[(]\s*[\"']ATTNLANG_")
    readers = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "attnlang").rglob("*.py")
        if reads.search(path.read_text(encoding="utf-8"))
    ]
    assert readers == ["attnlang/options.py"]


def test_the_version_is_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert attnlang.__version__ == project["version"]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_loading_a_spec_imports_no_tracer_of_torch() -> None:
    code = (
        "import sys, torch, attnlang; attnlang.load; "
        "print([m for m in ('torch._dynamo', 'torch.fx.experimental.symbolic_shapes', 'sympy') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"  # each costs as much as a second
