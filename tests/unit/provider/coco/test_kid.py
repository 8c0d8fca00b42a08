"""Key IDs: the forms that are read, the form that is written, and malformed ones."""

from __future__ import annotations

import pytest

from decoder import limits
from decoder.keywrap.kid import ResourceId, parse_kid
from decoder.provider.errors import ProviderError

NGINX = ResourceId("default/image_key/nginx")


@pytest.mark.parametrize(
    "text",
    [
        "kbs:///default/image_key/nginx",
        "kbs://broker.example/default/image_key/nginx",
        "kbs://127.0.0.1:8080/default/image_key/nginx",
        "kbs://[2001:db8::1]:8080/default/image_key/nginx",
        "kbs+resource:///default/image_key/nginx",
        "/default/image_key/nginx",
        "default/image_key/nginx",
        "127.0.0.1:8080/default/image_key/nginx",  # coco_keyprovider's documentation has it without a scheme
        "[2001:db8::1]:8080/default/image_key/nginx",
    ],
)
def test_forms(text: str) -> None:
    assert parse_kid(text) == NGINX
    assert (str(parse_kid(text)), parse_kid(text).path) == ("kbs:///default/image_key/nginx", "default/image_key/nginx")


def test_plugin_and_query() -> None:
    found = parse_kid("kbs+nebula-ca://broker:1/default/credential/node?ip=10.0.0.1%2F8&name=a")
    assert found == ResourceId("default/credential/node", "nebula-ca", "ip=10.0.0.1%2F8&name=a")
    assert str(found) == "kbs+nebula-ca:///default/credential/node?ip=10.0.0.1%2F8&name=a"


@pytest.mark.parametrize("path", ["a", "a/b", "a/b/c", "a/b/c/d/e"])
def test_a_plugin_has_paths_of_any_length(path: str) -> None:
    found = parse_kid(f"kbs+external-plugin://broker:1/{path}")
    assert found == ResourceId(path, "external-plugin")
    assert str(found) == f"kbs+external-plugin:///{path}"


def test_every_character_that_a_segment_may_have() -> None:
    assert parse_kid("kbs:///-a.B_9/_/0").path == "-a.B_9/_/0"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "kbs:///",
        "kbs:///default/image_key",
        "kbs:///default/image_key/",
        "kbs:///default/image_key/nginx/",
        "kbs:///default/image_key/nginx/more",
        "kbs+resource:///default/image_key/nginx/more",
        "kbs+resource:///a",
        "kbs+external:///",
        "kbs+external:///a//b",
        "kbs+external:///a/../b",
        "broker/default/image_key/nginx",
        "broker:8080/default/image_key",
        "kbs:////default/image_key/nginx",
        "kbs://default/image_key/nginx",
        "kbs:/default/image_key/nginx",
        "KBS:///default/image_key/nginx",
        "https://broker/default/image_key/nginx",
        "kbs+:///default/image_key/nginx",
        "kbs+../x:///default/image_key/nginx",
        "kbs://user@broker/default/image_key/nginx",
        "kbs://broker:port/default/image_key/nginx",
        "kbs:///../image_key/nginx",
        "kbs:///default/../nginx",
        "kbs:///default/./nginx",
        "kbs:///default/.hidden/nginx",
        "kbs:///default/image key/nginx",
        "kbs:///default/image%2Fkey/nginx",
        "kbs:///default/image\\x2Fkey/nginx",
        "kbs:///default/image_key/nginx#part",
        "kbs:///default/image_key/nginx?a b",
        "kbs:///default/image_key/nginx?a\r\nHost: b",
        "kbs:///default/image_key/nginx\n",
        "kbs:///default/image_key/ngin\u00e9",
        "kbs:///default/image_key/\u0660",
        "//default/image_key/nginx",
        "../../etc",
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ProviderError, match=r"is not a key id of the form kbs:///repository/type/tag$"):
        parse_kid(text)


def test_length() -> None:
    start = "kbs:///default/image_key/"
    longest = start + "x" * (limits.COCO_KID_CHARACTERS - len(start))
    assert str(parse_kid(longest)) == longest
    with pytest.raises(ProviderError, match="is not a key id") as caught:
        parse_kid(longest + "x")
    assert len(str(caught.value)) < 2 * limits.QUOTED_CHARACTERS
