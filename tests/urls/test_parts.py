"""A URL is read whole, or refused without a word of what stands in it."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mlproducer.urls.parts import BadUrl, Host, Url, read_url, several, shown

SECRET = "s3cret-Word"


def read(text: str) -> Url:
    return read_url(text, ("x",), like="x://host", several_hosts=True)


@given(
    st.text(min_size=1, max_size=12).filter(lambda text: text.isprintable()),
    st.text(max_size=12),
    st.sampled_from([("host", "host"), ("[::1]", "::1"), ("h%2Dx.example", "h-x.example"), ("10.0.0.1", "10.0.0.1")]),
    st.none() | st.integers(1, 65_535),
)
def test_whatever_is_escaped_is_read_as_it_was(
    user: str, password: str, host: tuple[str, str], port: int | None
) -> None:
    assume(all(not 0xD800 <= ord(c) < 0xE000 for c in user + password))
    written = f"x://{quote(user, safe='')}:{quote(password, safe='')}@{host[0]}{f':{port}' if port else ''}/p?a=b%26"
    url = read(written)
    assert (url.user, url.password, url.hosts, url.path) == (user, password, (Host(host[1], port),), "/p")
    assert url.query == (("a", "b&"),)


@given(st.text(alphabet="ab1/?#@:%[],;&=", max_size=14), st.text(alphabet="ab1/?#@:%[]", max_size=6))
def test_an_unescaped_password_is_read_whole_or_refused_and_never_quoted(password: str, user: str) -> None:
    """It may be that the whole is a good URL of something else: then no part of the password is dropped."""
    marked = password.replace("a", SECRET)
    try:
        url = read(f"x://{user}:{marked}@host/v")
    except BadUrl as error:
        assert SECRET not in str(error)  # noqa: PT017  # that it is refused is no fault
    else:
        assert url.host.name == "host"
        assert url.path == "/v"
        assert not url.query


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"x://user:12#{SECRET}@host/", "unescaped #"),
        (f"x://user:12/{SECRET}@host/", "before an @"),
        (f"x://user:12?{SECRET}@host/", "before an @"),
        (f"x://user:{SECRET}/x@host/", "before an @"),
        (f"x://user:{SECRET}%zz@host/", "begins no escape"),
        (f"x://user:{SECRET}%ff@host/", "no UTF-8"),
        (f"x://user:{SECRET} @host/", "blank"),
        (f"x://user:{SECRET}\n@host/", "blank"),
        (f"x://u:{SECRET}@one,u:{SECRET}@two/", "several URLs are whole"),
        (f"x://{SECRET}:port", "host and port"),
        (f"x://host:99999/{SECRET}", "from 1 to 65535"),
        (f"x://[{SECRET}]/", "IPv6"),
        (f"y://user:{SECRET}@host", "must look like x://host"),
        (f"user:{SECRET}@host", "must look like x://host"),
        ("", "must look like x://host"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_by_its_part(text: str, words: str) -> None:
    with pytest.raises(BadUrl) as caught:
        read(text)
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)
    assert SECRET not in shown(text)


def test_parameters_are_known_and_come_once() -> None:
    url = read("x://host?a=1&b=2&b=3")
    assert url.parameters(("a", "b"), several=("b",)) == {"a": "1", "b": "3"}
    with pytest.raises(BadUrl, match="`b` is given twice"):
        url.parameters(("a", "b"))
    with pytest.raises(BadUrl, match=r"`b` of its query is unknown; there are a$"):
        url.parameters(("a",))
    with pytest.raises(BadUrl, match="it takes none"):
        url.parameters(())


def test_a_list_is_split_before_the_next_scheme_alone() -> None:
    assert several("x://a:p,q;r@h;x://b , y://c/,") == ["x://a:p,q;r@h", "x://b", "y://c/"]
    assert shown(f"x://a:{SECRET}@h;x://b:{SECRET}@i?p={SECRET}") == "x://a:***@h,x://b:***@i?***"
    assert read("x://h1:1,[::2]:2,h3").hosts == (Host("h1", 1), Host("::2", 2), Host("h3"))
