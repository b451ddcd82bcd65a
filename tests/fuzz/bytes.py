"""Bytes that are nearly right: good ones with some changed, left out, put in or said twice; and any at all."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

# What breaks readers: ends and beginnings of what they look for, very deep and very long things, numbers at limits.
_PIECES = [
    b"\0", b"\xff", b"\n", b"\r\n", b'"', b"\\", b"\\ud800", b"{", b"}", b"[", b"]", b"null", b"true", b"-1", b"1e999",
    b"NaN", b"9" * 30, b"-9223372036854775809", b"18446744073709551616", b"[" * 3000, b'{"a":' * 3000, b"9" * 5000,
    b"\xc3\x28", b"\xed\xa0\x80", b"\xe2\x80\xae", b"\x1b[2J", b"-----BEGIN CERTIFICATE-----\n", b"=", b"&", b"%00",
    b"-----END CERTIFICATE-----\n", b".", b"$", b"\x80" * 10 + b"\x01", b"\x08", b"\x0a\xff\xff\xff\xff\x0f",
]  # fmt: skip


@st.composite
def spoiled(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds, with up to eight changes."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 8))):
        begin = draw(st.integers(0, len(data)))
        stop = min(len(data), begin + draw(st.integers(0, 40)))
        match draw(st.integers(0, 4)):
            case 0:
                del data[begin:stop]
            case 1:
                data[begin:begin] = draw(st.sampled_from(_PIECES) | st.binary(max_size=20))
            case 2:
                data[begin:stop] = draw(st.sampled_from(_PIECES) | st.binary(min_size=1, max_size=20))
            case 3:
                data[begin:begin] = data[begin:stop]
            case _:
                if begin < len(data):
                    data[begin] ^= 1 << draw(st.integers(0, 7))
    return bytes(data)


def anything(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Mostly nearly right."""
    return spoiled(seeds) | spoiled(seeds) | spoiled(seeds) | st.binary(max_size=200) | st.sampled_from(_PIECES)
