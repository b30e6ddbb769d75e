"""A private key's file: made once, whole, for its owner alone, and never silently replaced."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from system_under_test.domain.signatures import public_key
from system_under_test.settings import PlatformError
from system_under_test.storage.key_file import P256, open_key


def test_the_first_start_makes_a_key_and_every_other_reads_it(tmp_path: Path) -> None:
    """Opens twice: the same key, mode 0600 whatever the umask, nothing else left in the folder."""
    before = os.umask(0)
    try:
        key = open_key(tmp_path / "key")
    finally:
        os.umask(before)
    assert open_key(tmp_path / "key") == key
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_two_starts_at_once_get_one_key(tmp_path: Path) -> None:
    """Sixteen openings by eight threads: one key."""
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(open_key, [tmp_path / "key"] * 16))) == 1


def test_what_a_killed_start_left_is_no_obstacle(tmp_path: Path) -> None:
    """A half-written file under the name of an earlier try: a key is made."""
    (tmp_path / "key.partial-00000000").write_text("holdfast-key-1\n12")
    assert len(open_key(tmp_path / "key")) == 32


@pytest.mark.parametrize("damage", ["empty", "cut", "other title", "digit", "binary", "one key twice"])
def test_a_damaged_key_is_an_error_that_says_what_to_do_and_not_what_it_read(tmp_path: Path, damage: str) -> None:
    """Damages the file in one way: refused, kept as it is, and no part of it in the message."""
    path = tmp_path / "key"
    private = open_key(path).hex()
    whole = path.read_bytes()
    first_digit = len("holdfast-key-1\n")
    content = {
        "empty": b"",
        "cut": whole[:40],
        "other title": b"x" + whole,
        "digit": whole[:first_digit] + (b"1" if whole[first_digit] != ord("1") else b"2") + whole[first_digit + 1 :],
        "binary": b"\xff\x00" * 40,
        "one key twice": f"holdfast-key-1\n{private}\n{private}\n".encode(),
    }[damage]
    path.write_bytes(content)
    with pytest.raises(PlatformError, match=r"key: the private key is damaged; .*start again") as refused:
        open_key(path)
    assert private[8:24] not in str(refused.value)
    assert path.read_bytes() == content


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """Mode 0640, and a symbolic link instead of a file: refused."""
    open_key(tmp_path / "key")
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(PlatformError, match=r"expected a file of our own with mode 0600, got -rw-r-----"):
        open_key(tmp_path / "key")
    (tmp_path / "link").symlink_to(tmp_path / "key")
    with pytest.raises(OSError, match="link"):
        open_key(tmp_path / "link")


def test_the_public_key_in_the_file_is_the_one_that_belongs_to_it(tmp_path: Path) -> None:
    """The third line of a new file: the public key of the second."""
    key = open_key(tmp_path / "key")
    assert (tmp_path / "key").read_text().splitlines() == ["holdfast-key-1", key.hex(), public_key(key).hex()]


def test_a_key_of_another_algorithm_is_not_taken_for_its_own(tmp_path: Path) -> None:
    """A key of P-256 is made and read as such; the same file as one of Ed25519, and the other way round: damaged."""
    key = open_key(tmp_path / "vapid.key", P256)
    assert open_key(tmp_path / "vapid.key", P256) == key
    assert (tmp_path / "vapid.key").read_text().splitlines()[0] == "holdfast-p256-key-1"
    open_key(tmp_path / "signer.key")
    with pytest.raises(PlatformError, match="damaged"):
        open_key(tmp_path / "vapid.key")
    with pytest.raises(PlatformError, match="damaged"):
        open_key(tmp_path / "signer.key", P256)
