"""Lines that others must be able to read whatever happens to their writer: whole, or not there at all."""

import os


def append_whole(fd: int, data: bytes, *, sync: bool = False) -> None:
    """Appends `data` to a file that nobody else writes; `sync`: it is on disk when this returns.

    Raises:
        OSError: that did not work, and nothing of it is in the file.
    """
    before = os.fstat(fd).st_size
    try:
        _write_whole(fd, data)
        if sync:
            os.fsync(fd)
    except OSError:
        # Half a line would spoil the next one.
        os.ftruncate(fd, before)
        raise


def _write_whole(fd: int, data: bytes) -> None:
    if os.write(fd, data) != len(data):
        raise OSError("only part of a line could be written; is the disk full?")
