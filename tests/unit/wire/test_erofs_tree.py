"""Where members go in a layer: names, replacement, links, whiteouts, and what is refused."""

from __future__ import annotations

import stat

import pytest

from crib.wire.erofs_tree import Inode, LayerTree, LayoutError
from crib.wire.tar_member import Kind, Member


def member(name: str, kind: Kind = Kind.FILE, link: str = "", **fields: object) -> Member:
    mode = 0o755 if kind is Kind.DIRECTORY else 0o644
    plain = Member(name.encode(), kind, mode, 1, 2, 3, 4, 0, 0, 0, link.encode())
    return plain._replace(**fields)  # type: ignore[arg-type]  # fields are named by the tests


def tree(*members: Member, absolute: bool = False) -> LayerTree:
    built = LayerTree(absolute=absolute)
    for number, each in enumerate(members):
        built.add(each, 4096 * (number + 1))
    return built


def at(built: LayerTree, path: str) -> Inode | None:
    node: Inode | None = built.root
    for part in path.split("/") if path else []:
        assert node is not None
        node = (node.children or {}).get(part.encode())
    return node


def names(built: LayerTree, path: str = "") -> set[str]:
    node = at(built, path)
    assert node is not None
    return {name.decode() for name in node.children or {}}


@pytest.mark.parametrize("name", ["./a/b", "a//b", "a/./b", ".//a/b", "./a/././b"])
def test_names_are_normalised(name: str) -> None:
    assert names(tree(member(name)), "a") == {"b"}


@pytest.mark.parametrize("name", [".", "./", "", "././"])
def test_a_name_for_the_root_describes_the_root(name: str) -> None:
    built = tree(member(name, Kind.DIRECTORY, mode=0o700))
    assert (built.root.mode, built.root.uid, built.root.mtime) == (stat.S_IFDIR | 0o700, 1, 3)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (member("../a"), "'..'"),
        (member("a/../b"), "'..'"),
        (member("a/.."), "'..'"),
        (member("/a"), "absolute"),
        (member("file/x"), "used as a directory"),
        (member("file/x/y", Kind.DIRECTORY), "used as a directory"),
        (member("l", Kind.HARD_LINK, "nothing"), "hard link to 'nothing'"),
        (member("l", Kind.HARD_LINK, "file/x"), "hard link to 'file/x'"),
        (member("l", Kind.HARD_LINK, "dir"), "hard link to the directory"),
        (member("l", Kind.HARD_LINK, "../file"), "'..'"),
        (member("l", Kind.HARD_LINK, "/file"), "absolute"),
        (member("l", Kind.HARD_LINK, ""), "hard link to ''"),
        (member("."), "cannot be the root"),
        (member("s", Kind.SYMLINK), "no target"),
        (member("n" * 256), "a name of 256 bytes"),
        (member("n" * 256 + "/f"), "a name of 256 bytes"),
        (member("c", Kind.CHARACTER, device=(5000, 0)), "device number"),
        (member(".wh."), "whiteout of nothing"),
        (member(".wh..."), "whiteout of nothing"),
        (member(".wh.dir/x"), "whiteout is used as a directory"),
        (member("loop/x"), "too many symbolic links"),
    ],
)
def test_a_member_without_a_possible_place_is_refused(bad: Member, reason: str) -> None:
    built = tree(member("file"), member("dir", Kind.DIRECTORY), member("loop", Kind.SYMLINK, "loop"))
    with pytest.raises(LayoutError, match=reason):
        built.add(bad, 0)


def test_absolute_names_are_taken_from_the_root_where_that_is_asked_for() -> None:
    built = tree(
        member("/", Kind.DIRECTORY, mode=0o711),
        member("/a/b"),
        member("/l", Kind.HARD_LINK, "/a/b"),
        absolute=True,
    )
    assert names(built) == {"a", "l"}
    assert built.root.mode == stat.S_IFDIR | 0o711
    with pytest.raises(LayoutError, match=r"'\.\.'"):
        built.add(member("/../x"), 0)


def test_missing_parents_are_made_for_root_with_0755() -> None:
    node = at(tree(member("a/b/c")), "a/b")
    assert node is not None
    assert (node.mode, node.uid, node.gid, node.mtime) == (stat.S_IFDIR | 0o755, 0, 0, 0)


def test_a_later_member_replaces_an_earlier_one() -> None:
    built = tree(member("a/f"), member("a/f", mode=0o600), member("a/g"), member("a"))
    node = at(built, "a")
    assert node is not None
    assert node.children is None
    built = tree(member("a/b/f"), member("a/b", Kind.SYMLINK, "c"), member("a/c/x"), member("a/b/g"))
    assert names(built, "a/c") == {"x", "g"}


def test_a_directory_over_a_directory_keeps_the_children() -> None:
    built = tree(member("d/f"), member("d", Kind.DIRECTORY, mode=0o700))
    assert names(built, "d") == {"f"}
    assert (at(built, "d") or built.root).mode == stat.S_IFDIR | 0o700


def test_a_directory_that_was_replaced_is_not_written_to_any_more() -> None:
    built = tree(member("d/f"), member("d"), member("d", Kind.DIRECTORY), member("d/g"))
    assert names(built, "d") == {"g"}


def test_symbolic_links_on_the_way_lead_within_the_layer() -> None:
    built = tree(
        member("usr/lib", Kind.DIRECTORY),
        member("lib", Kind.SYMLINK, "usr/lib"),
        member("up", Kind.SYMLINK, "../../../usr"),
        member("abs", Kind.SYMLINK, "/usr/lib"),
        member("usr/back", Kind.SYMLINK, "../usr/./lib"),
        member("lib/a"),
        member("up/lib/b"),
        member("abs/c"),
        member("usr/back/d"),
        member("dangling", Kind.SYMLINK, "made/here"),
        member("dangling/e"),
    )
    assert names(built, "usr/lib") == {"a", "b", "c", "d"}
    assert names(built, "made/here") == {"e"}


def test_hard_links_share_a_node_and_count() -> None:
    built = tree(
        member("f"),
        member("d/l", Kind.HARD_LINK, "./f"),
        member("m", Kind.HARD_LINK, "d/l"),
        member("m", Kind.HARD_LINK, "m"),
    )
    node = at(built, "f")
    assert node is at(built, "d/l") is at(built, "m")
    assert node is not None
    assert node.links == 3
    built.add(member("m"), 0)
    assert node.links == 2


def test_only_user_xattrs_and_capabilities_are_kept() -> None:
    given = {
        b"user.a": b"1",
        b"security.capability": b"2",
        b"trusted.overlay.opaque": b"y",
        b"security.selinux": b"3",
        b"system.posix_acl_access": b"4",
    }
    node = at(tree(member("f", xattrs=given)), "f")
    assert node is not None
    assert node.xattrs == {b"user.a": b"1", b"security.capability": b"2"}
    only = at(tree(member("f", xattrs={b"trusted.x": b""})), "f")
    assert only is not None
    assert only.xattrs is None


def test_a_whiteout_is_a_device_0_0_of_the_hidden_name() -> None:
    built = tree(member("d/.wh.gone"))
    node = at(built, "d/gone")
    assert node is not None
    assert node.is_whiteout()


def test_an_opaque_whiteout_marks_its_directory_before_or_after_the_entry() -> None:
    built = tree(member("a/.wh..wh..opq"), member("a", Kind.DIRECTORY), member(".wh..wh..opq"))
    assert (at(built, "a") or built.root).opaque
    assert built.root.opaque
    assert names(built) == {"a"}
    assert names(built, "a") == set()


@pytest.mark.parametrize("order", [0, 1])
def test_a_directory_that_is_also_whited_out_is_opaque(order: int) -> None:
    members = [member(".wh.d"), member("d", Kind.DIRECTORY)]
    built = tree(*(members[::-1] if order else members), member("d/f"))
    node = at(built, "d")
    assert node is not None
    assert node.opaque
    assert names(built, "d") == {"f"}


def test_a_parent_that_is_also_whited_out_is_opaque() -> None:
    built = tree(member(".wh.d"), member("d/f"))
    node = at(built, "d")
    assert node is not None
    assert node.opaque


@pytest.mark.parametrize("order", [0, 1])
def test_a_file_that_is_also_whited_out_is_the_file(order: int) -> None:
    members = [member(".wh.f"), member("f")]
    node = at(tree(*(members[::-1] if order else members)), "f")
    assert node is not None
    assert stat.S_ISREG(node.mode)


def test_metadata_of_aufs_is_left_out() -> None:
    built = tree(
        member(".wh..wh.plnk", Kind.DIRECTORY),
        member(".wh..wh.plnk/1.2"),
        member(".wh..wh.aufs"),
        member("f"),
    )
    assert names(built) == {"f"}


def test_the_number_of_inodes_is_bounded_with_the_parents_that_are_made() -> None:
    built = LayerTree(max_inodes=4)
    built.add(member("a/b/c"), 0)
    with pytest.raises(LayoutError, match="more than 4 files and directories"):
        built.add(member("d"), 0)
