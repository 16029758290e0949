import os

from attnlang.jit.closure import include_closure


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def names(closure):
    return [name for name, _ in closure]


def test_headers_are_followed_through_folders_and_cycles(tmp_path):
    write(
        tmp_path,
        {
            "a/one.h": '#include "two.h"\n#include <vector>\n',
            "a/two.h": '#  include <b/three.h>\n#include "one.h"\n',
            "b/three.h": "int three;\n",
            "b/unread.h": "",
        },
    )
    closure = include_closure(['#include "a/one.h"\n'], [tmp_path])
    assert names(closure) == ["a/one.h", "a/two.h", "b/three.h"]


def test_several_roots_are_searched_and_names_are_relative(tmp_path):
    write(tmp_path, {"r1/x.h": '#include "y.h"\n', "r2/y.h": "y"})
    closure = include_closure(["#include <x.h>"], [tmp_path / "r1", tmp_path / "r2"])
    assert closure == (("x.h", '#include "y.h"\n'), ("y.h", "y"))


def test_a_changed_header_is_read_again(tmp_path):
    write(tmp_path, {"x.h": "1"})
    before = include_closure(['#include "x.h"'], [tmp_path])
    write(tmp_path, {"x.h": "2"})
    os.utime(tmp_path / "x.h", ns=(1, 1))
    assert include_closure(['#include "x.h"'], [tmp_path]) != before


def test_a_header_is_part_of_the_key(tmp_path, monkeypatch, answer):
    from attnlang.jit import recipe

    write(tmp_path, {"x.h": "1"})
    monkeypatch.setattr(recipe, "include_roots", lambda: (tmp_path,))
    sources = answer(extra='#include "x.h"')
    before = recipe.make_recipe(sources).key
    assert recipe.make_recipe(sources).key == before
    write(tmp_path, {"x.h": "22"})
    assert recipe.make_recipe(sources).key != before
