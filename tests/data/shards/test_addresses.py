from __future__ import annotations

import pytest

from ffvit.data.shards.addresses import expand_braces, is_remote, join_address
from ffvit.errors import UserError


def test_braces_count_and_list():
    assert expand_braces("s3://b/x-{0008..0011}.tar") == tuple(f"s3://b/x-{n:04}.tar" for n in range(8, 12))
    assert expand_braces("x{9..11}") == ("x9", "x10", "x11")
    assert expand_braces("{a,b}-{0..1}") == ("a-0", "a-1", "b-0", "b-1")
    assert expand_braces("https://host/plain.tar") == ("https://host/plain.tar",)


@pytest.mark.parametrize("wrong", ["x{5..3}", "x{a}", "x{0..3", "x}", "{a,{b,c}}", "{0..9999}{0..9999}"])
def test_other_braces_are_refused(wrong):
    with pytest.raises(UserError, match=r"brace|count|neither|stand for"):
        expand_braces(wrong)


def test_what_is_an_address():
    assert all(map(is_remote, ("s3://bucket/x", "https://host/x", "gs://b/x", "memory://x", "HTTP://h/x")))
    assert not any(map(is_remote, ("digits", "/data/x", "hfds/user/set", "nothing://x", "wds/x")))


def test_a_file_in_a_folder_whose_address_ends_in_a_query():
    assert join_address("https://host/folder/?key=1", "x.tar") == "https://host/folder/x.tar?key=1"
    assert join_address("s3://bucket/folder", "x.tar") == "s3://bucket/folder/x.tar"
