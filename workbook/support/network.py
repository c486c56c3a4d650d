"""Downloads that end: with a whole file, or with an error after a server has been silent."""

import contextlib
import sys
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pooch
import requests

from workbook.support.text import printable

TIMEOUT = 30  # seconds without a byte from the server
ATTEMPTS = 2  # how often a download is started before it counts as failed
AS_IT_IS = {"Accept-Encoding": "identity"}  # a server that packs the file again changes its hash


def download(address: str, path: str | Path) -> None:
    """Download the file behind an address, with a progress bar.

    Where the connection is refused, cut or silent for `TIMEOUT` seconds, the download is started
    once more.

    Parameters
    ----------
    address
        An address that begins with http:// or https://.
    path
        The file to write to. After an error it may hold a part of the file.

    Raises
    ------
    OSError
        If the server cannot be reached, answers with an error, or stops in the middle; or if the
        disk is full.
    """
    fetch = pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT, headers=AS_IT_IS)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return fetch(address, str(path), None)
        except requests.RequestException as error:
            reason = printable(_find_first_cause(error))
            if attempt == ATTEMPTS or isinstance(error, requests.HTTPError):  # such as 404
                raise OSError(reason) from error
            print(f"{reason}: trying again")


def _find_first_cause(error: BaseException) -> BaseException:
    """Return what the system or the server said, without the layers that wrap it in more text."""
    first, cause = error, error.__context__
    while cause:
        if isinstance(cause, (OSError, HTTPException)):
            first = cause
        cause = cause.__context__
    return first


@contextlib.contextmanager
def limit_keras_downloads() -> Iterator[list[str]]:
    """Have Keras fetch its files by `download`, because it waits for a silent server for ever.

    Gives the list of the addresses that Keras has asked for so far, for an error message.
    """
    from workbook.support.tensorflow_start import keras  # here, because downloads do without it

    module: Any = sys.modules[keras.utils.get_file.__module__]
    original = module.urlretrieve
    addresses: list[str] = []

    def fetch(address: str, path: str, *progress: object) -> None:
        addresses.append(address)
        download(address, path)

    module.urlretrieve = fetch
    try:
        yield addresses
    finally:
        module.urlretrieve = original
