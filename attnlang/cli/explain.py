"""`attnlang explain`: what a variant means, what the compiler found, what a call of it costs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from attnlang.cli import console
from attnlang.cli.errors import InputError
from attnlang.cli.files import choose
from attnlang.cli.options import add_file_and_name, add_set, positive
from attnlang.cli.outputs import check_writable, write_whole

if TYPE_CHECKING:
    from attnlang.explain.explanation import Explanation
    from attnlang.ir.nodes import Variant

_MAX_LENGTH = 1 << 30  # as positions in a call
_PICTURES = (".png", ".svg", ".pdf")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    add_file_and_name(parser)
    parser.add_argument(
        "--q-len",
        type=positive,
        metavar="N",
        help="queries (default: 4096, or what the spec takes)",
    )
    parser.add_argument(
        "--kv-len", type=positive, metavar="N", help="keys (default: as many as queries)"
    )
    add_set(parser)
    parser.add_argument("--html", type=Path, metavar="OUT", help="write it all as one HTML page")
    parser.add_argument(
        "--plot", type=Path, metavar="OUT", help="draw mask and tiles as PNG, SVG or PDF"
    )


def explain(args: Namespace) -> int:
    """Say what a variant means, which tiles it visits and what that costs on this machine."""
    variant = choose(args.file, args.name, args.include).variant
    q_len: int | None = args.q_len
    kv_len: int | None = args.kv_len
    html: Path | None = args.html
    plot: Path | None = args.plot
    for option, length in (("--q-len", q_len), ("--kv-len", kv_len)):
        if length is not None and length >= _MAX_LENGTH:
            raise InputError(f"{option}: a length is below 2 ** 30, found {length}")
    _check_outputs(html, plot)
    with console.activity("loading torch") as activity:
        import attnlang.explain.make  # noqa: F401

        activity.now("looking at the mask")
        explained = _explain(variant, q_len, kv_len, args.set)
        if html is not None:
            activity.now("writing the page")
            page = explained.to_html()
            write_whole(html, lambda path: _write(path, page))
        if plot is not None:
            activity.now("drawing")
            _draw(explained, plot)
    console.result(str(explained))
    if html is not None:
        console.message(f"the page is {html}")
    if plot is not None:
        console.message(f"drawn in {plot}")
    return 0


def _check_outputs(html: Path | None, plot: Path | None) -> None:
    """Refuse outputs that cannot be written, before anything is computed for them."""
    if html is not None:
        check_writable("--html", html)
    if plot is None:
        return
    check_writable("--plot", plot)
    if plot.suffix.lower() not in _PICTURES:
        raise InputError(f"--plot: {plot} must end in {', '.join(_PICTURES)}")
    if html is not None and html.resolve() == plot.resolve():
        raise InputError(f"--plot: {plot} is the page")


def _explain(
    variant: Variant, q_len: int | None, kv_len: int | None, settings: list[str]
) -> Explanation:
    from attnlang.cli.settings import parse_settings
    from attnlang.explain.machine import this_machine
    from attnlang.explain.make import explain as make
    from attnlang.explain.make import request

    wanted = request(variant, q_len, kv_len, parse_settings(variant, settings))
    return make(variant, wanted, this_machine())


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _draw(explained: Explanation, plot: Path) -> None:
    suffix = plot.suffix.removeprefix(".").lower()
    try:
        write_whole(plot, lambda path: explained.plot(path, suffix))
    except ModuleNotFoundError as error:
        raise InputError(f"--plot: {error}") from None
