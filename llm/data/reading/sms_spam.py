"""The SMS Spam Collection, by its name: 5,574 messages, ham or spam (Almeida and Hidalgo 2011, CC BY 4.0)."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from llm.data.reading.downloads import download, refuse_other_file
from llm.errors import DataError

SMS_SPAM = "sms-spam"
URL = "https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip"
FILE = "SMSSpamCollection"
SHA256 = "7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d"


def sms_spam(data_dir: Path) -> Path:
    """The file, which is downloaded when it is not there yet.

    Raises:
        DataError: it can't be downloaded, or is another file; says where to put it.
    """
    path = data_dir / SMS_SPAM / FILE
    if path.is_file():
        refuse_other_file(path, "the SMS Spam Collection", SHA256)
    else:
        download("the SMS Spam Collection", URL, path, SHA256, unpack=_unpack)
    return path


def _unpack(content: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return archive.read(FILE)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"what was downloaded is not the archive with {FILE}: {error}") from error
