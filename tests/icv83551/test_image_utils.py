"""Images from a real server on this machine, from a file, and from nowhere."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icv83551.image_utils import image_from_url
from tests.sources.file_server import FileServer, serve

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def encoded(format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, format)
    return file.getvalue()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("OPSIN_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with serve(encoded()) as running:
        yield running


def test_image_arrives_and_nothing_stays_behind(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    image = image_from_url(server.url)
    assert isinstance(image, np.ndarray)
    assert image.dtype == np.uint8
    assert (image == PIXELS).all()
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_image_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    image = image_from_url((tmp_path / "a.png").as_uri())
    assert image is not None
    assert (image == PIXELS).all()


@pytest.mark.parametrize(("code", "reason"), [(404, "Not Found"), (410, "Gone"), (500, "Internal Server Error")])
def test_answer_of_the_server_is_printed(
    server: FileServer, capsys: pytest.CaptureFixture[str], code: int, reason: str
) -> None:
    server.error = code
    assert image_from_url(server.url) is None
    assert capsys.readouterr() == (f"URL Error:  {reason} {server.url}\n", "")


def failure(url: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What is printed about an address that gives no image."""
    assert image_from_url(url) is None
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("URL Error:  ")
    assert out.endswith(f" {url}\n")
    return out


def test_nobody_answers(server: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.shutdown()
    server.server_close()
    assert "refused" in failure(server.url, capsys)


def test_connection_that_drops(server: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.cut_after = 20
    assert "IncompleteRead" in failure(server.url, capsys)


def test_answer_that_is_no_image(server: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.content = b"<html>this photo is no longer available</html>"
    assert "not an image" in failure(server.url, capsys)


@pytest.mark.parametrize("url", ["", "no address", "http://", "http://a b/", "file:///no/such/file.png"])
def test_address_that_leads_nowhere(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    failure(url, capsys)


def test_offline_asks_nobody(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "this run is offline" in failure(server.url, capsys)
    assert server.ranges == []
