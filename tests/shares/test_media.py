from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlproducer.errors import InvalidTask
from mlproducer.shares.media import MediaKind, check_media_url, media_kind


def refusal(url: str, *, allow_private: bool = False) -> str | None:
    try:
        check_media_url(url, allow_private=allow_private)
    except InvalidTask as error:
        return error.problem
    return None


def test_a_refusal_names_the_field() -> None:
    with pytest.raises(InvalidTask) as caught:
        check_media_url("http://localhost/")
    assert caught.value.field == "media_url"


@pytest.mark.parametrize(
    "url",
    [
        "https://cdn.example.com/a.mp3",
        "http://cdn.example.com:8080/a.mp3?sig=1#t=10",
        "HTTPS://CDN.Example.COM/a.mp3",
        "https://cdn.example.com./a.mp3",
        "https://xn--mnchen-3ya.example/a.mp3",
        "https://cdn.example.com/straße/ü.mp3",
        "https://medium.example.com/@someone/a.mp3",
        "https://8.8.8.8/a.mp3",
        "https://[2606:4700::1111]:8443/a.mp3",
        "https://a_b.example.com/a.mp3",
        "s3://my-bucket/folder/a.wav",
        "gs://my.bucket/a.wav",
        "az://container/a.wav",
    ],
)
def test_a_public_address_is_taken(url: str) -> None:
    assert refusal(url) is None


PRIVATE = [
    "http://127.0.0.1/a.mp3",
    "http://127.255.255.254/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.168.1.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://100.100.100.200/",
    "http://168.63.129.16/",
    "http://0.0.0.0/",
    "http://0.1.2.3/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://240.0.0.1/",
    "http://192.0.0.192/",
    "http://198.18.0.1/",
    "http://127.0.0.1./",
    "http://[::1]/",
    "http://[::]/",
    "http://[fe80::1]/",
    "http://[fc00::1]/",
    "http://[fd00:ec2::254]/",
    "http://[ff02::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:8.8.8.8]/",
    "http://[0:0:0:0:0:ffff:7f00:1]/",
    "http://[::127.0.0.1]/",
    "http://[2002:7f00:1::]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[64:ff9b:1::1]/",
    "http://[2001:0:7f00:1::]/",
    "http://[2001:db8::1]/",
    "http://localhost/",
    "http://localhost:15672/api",
    "http://LOCALHOST./",
    "http://x.localhost/",
    "http://printer.local/",
    "http://metadata.google.internal/",
    "http://wiki.corp/",
    "http://nas.home.arpa/",
    "http://home.arpa/",
    "http://minio/",
    "http://minio:9000/a.wav",
    "http://api.default.svc/",
]


@pytest.mark.parametrize("url", PRIVATE)
def test_an_address_that_leads_inwards_is_refused_and_names_the_setting(url: str) -> None:
    problem = refusal(url)
    assert problem is not None
    assert "ML_ALLOW_PRIVATE_MEDIA" in problem


@pytest.mark.parametrize("url", PRIVATE)
def test_it_is_taken_where_private_media_are_allowed(url: str) -> None:
    assert refusal(url, allow_private=True) is None


@pytest.mark.parametrize("allow_private", [False, True])
@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.mp3",
        "/etc/passwd",
        "//cdn.example.com/a.mp3",
        "file:///etc/passwd",
        "ftp://cdn.example.com/a.mp3",
        "gopher://cdn.example.com/",
        "data:audio/wav;base64,UklGRg==",
        "javascript:alert(1)",
        "http:/cdn.example.com/a.mp3",
        "http:cdn.example.com",
        "http:///a.mp3",
        "http://:80/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.0.0.1/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://127.0.1/",
        "http://0/",
        "http://0x/",
        "http://1.2.3.4.5/",
        "http://example.123/",
        "http://256.0.0.1/",
        "http://user@cdn.example.com/",
        "http://user:pass@cdn.example.com/",
        "http://cdn.example.com@127.0.0.1/",
        "http://cdn.example.com\\@127.0.0.1/",
        "http://cdn.example.com%2f@127.0.0.1/",
        "http://127.0.0.1%00.example.com/",
        "http://%31%32%37.0.0.1/",
        "http://①②⑦.0.0.1/",
        "http://127。0。0。1/",
        "http://ｌocalhost/",
        "http://cdn.example.com／@127.0.0.1/",
        "http://cdn.exa\tmple.com/",
        "http://cdn.example.com/a b.mp3",
        "http://cdn.example.com/a\r\nHost: x",
        " http://cdn.example.com/",
        "http://cdn.example.com/\u202egpm.exe",
        "http://[::1",
        "http://[::1%25eth0]/",
        "http://[::1]x/",
        "http://[2606:4700::1111]x/",
        "http://x[2606:4700::1111]/",
        "http://[v1.fe80]/",
        "http://cdn..example.com/",
        "http://.example.com/",
        "http://-cdn.example.com/",
        "http://cdn.example.com../",
        "http://cdn.example.com:0/",
        "http://cdn.example.com:65536/",
        "http://cdn.example.com:8o/",
        "http://" + "a." * 130 + "com/",
        "http://" + "a" * 64 + ".com/",
        "http://cdn.example.com/" + "a" * 9_000,
        "s3://",
        "s3:///a.wav",
        "s3://key:secret@bucket/a.wav",
        "s3://127.0.0.1/a.wav",
        "s3://bucket:9000/a.wav",
        "s3://a..b/a.wav",
    ],
)
def test_a_form_that_is_ambiguous_or_no_web_address_is_always_refused(url: str, *, allow_private: bool) -> None:
    assert refusal(url, allow_private=allow_private) is not None


def test_a_refusal_never_shows_the_url() -> None:
    assert "sig-123" not in (refusal("http://localhost/a?signature=sig-123") or "sig-123")
    assert "sig-123" not in (refusal("http://u:sig-123@example.com/") or "sig-123")


@given(st.ip_addresses(v=4))
def test_no_ipv4_address_that_python_calls_private_is_taken(address: IPv4Address) -> None:
    if not address.is_global or address.is_multicast or address.is_reserved:
        assert refusal(f"http://{address}/") is not None


@given(st.ip_addresses(v=4))
def test_no_spelling_of_an_ipv4_address_but_the_plain_one_is_taken(address: IPv4Address) -> None:
    number = int(address)
    a, b, c, d = address.packed
    for host in (
        str(number),
        hex(number),
        f"0{number:o}",
        f"{a}.{number & 0xFFFFFF}",
        f"{a}.{b}.{number & 0xFFFF}",
        f"0{a:o}.{b}.{c}.{d}",
        f"0x{a:x}.{b}.{c}.0x{d:x}",
        f"[::ffff:{address}]",
        f"[::{address}]",
        f"[64:ff9b::{address}]",
        f"[{IPv6Address((0x2002 << 112) | (number << 80))}]",
    ):
        assert refusal(f"http://{host}/") is not None, host


@given(st.ip_addresses(v=6))
def test_no_ipv6_address_that_python_calls_private_is_taken(address: IPv6Address) -> None:
    inward = not address.is_global or address.is_multicast or address.is_link_local or address.is_site_local
    if inward or address.ipv4_mapped or address.sixtofour or address.teredo:
        assert refusal(f"http://[{address}]/") is not None


@given(st.text())
def test_any_text_is_either_taken_or_refused_in_words(url: str) -> None:
    refusal(url)
    refusal(f"http://{url}/")
    refusal(f"s3://{url}")


@pytest.mark.parametrize(
    ("media_type", "url", "kind"),
    [
        ("audio", "https://e.com/x", MediaKind.AUDIO),
        ("Video/MP4; codecs=avc1", "https://e.com/x", MediaKind.VIDEO),
        ("audio/mpeg", "https://e.com/x.png", MediaKind.AUDIO),
        ("image/png", "https://e.com/x.mp3", MediaKind.OTHER),
        ("text/html", "https://e.com/", MediaKind.OTHER),
        (None, "https://e.com/talk.MP3?sig=a.png#b.png", MediaKind.AUDIO),
        ("", "s3://bucket/film.webm", MediaKind.VIDEO),
        ("application/octet-stream", "https://e.com/a/b.m4a", MediaKind.AUDIO),
        (None, "https://e.com/a%2Emp3", MediaKind.AUDIO),
        (None, "https://e.mp3/", MediaKind.UNKNOWN),
        (None, "https://e.com/a.mp3/page", MediaKind.UNKNOWN),
        (None, "https://e.com/mp3", MediaKind.UNKNOWN),
        ("other", "https://e.com/x", MediaKind.UNKNOWN),
    ],
)
def test_the_kind_is_by_the_type_given_or_else_by_the_ending(media_type: str | None, url: str, kind: MediaKind) -> None:
    assert media_kind(media_type, url) is kind
