import hashlib
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from litlab.data import download as module
from litlab.data.download import download
from litlab.errors import UserError

GOOD = os.urandom(200_000)
MD5 = hashlib.md5(GOOD).hexdigest()
REASONS = {
    "403": "answers 403 Forbidden",
    "404": "answers 404 Not Found",
    "503": "answers 503 Service Unavailable",
    "page": "answers with another file (text/html, 18 bytes, its MD5 differs)",
    "cut-off": "cut off after 100000 of 200000 bytes",
    "cut-off-chunk": "cut off",
    "unending-header": "got more than 65536 bytes when reading header line",
    "hang-up": "Remote end closed connection without response",
    "slow": "slower than 10000 bytes a second",
    "slow-header": "slower than 10000 bytes a second",
    "silent": "no answer for 0.8 seconds",
    "stalled": "no answer for 0.8 seconds",
    "to-a-local-file": "answers 302",
}


class Mirror(http.server.BaseHTTPRequestHandler):
    """Misbehaves as the address asks."""

    def log_message(self, *args):
        pass

    def header(self, status=200, **fields):
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def drip(self, data):
        for start in range(0, len(data), 10):
            self.wfile.write(data[start : start + 10])
            time.sleep(0.05)

    def do_GET(self):
        path = self.path.strip("/")
        if path.isdigit():
            self.send_error(int(path))
        else:
            getattr(self, path.replace("-", "_"))()

    def good(self):
        self.header(Content_Length=len(GOOD))
        self.wfile.write(GOOD)

    def of_unknown_length(self):
        self.header()
        self.wfile.write(GOOD)

    def moved(self):
        self.header(301, Location="/good")

    def to_a_local_file(self):
        self.header(302, Location="file:///etc/hostname")

    def for_two_at_once(self):
        self.server.two.wait(timeout=20)
        self.good()

    def page(self):
        self.header(Content_Type="text/html; charset=utf-8")
        self.wfile.write(b"<html>moved</html>")

    def cut_off(self):
        self.header(Content_Length=len(GOOD))
        self.wfile.write(GOOD[:100_000])

    def cut_off_chunk(self):
        self.header(Transfer_Encoding="chunked")
        self.wfile.write(b"ffff\r\n" + GOOD[:100])

    def unending_header(self):
        self.wfile.write(b"HTTP/1.0 200 OK\r\nX: " + b"x" * 70_000)

    def hang_up(self):
        pass

    def slow(self):
        self.header(Content_Length=len(GOOD))
        self.drip(GOOD)

    def slow_header(self):
        self.drip(f"HTTP/1.0 200 OK\r\nContent-Length: {len(GOOD)}\r\nX-Padding: {'x' * 160}\r\n\r\n".encode())
        self.drip(GOOD)

    def silent(self):
        self.server.over.wait(timeout=20)

    def stalled(self):
        self.header(Content_Length=len(GOOD))
        self.wfile.write(GOOD[:100_000])
        self.silent()


@pytest.fixture
def mirror():
    """The address of a server on the loopback address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    server.handle_error = lambda *args: None  # it is left alone in the middle of an answer
    server.over, server.two = threading.Event(), threading.Barrier(2)
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.over.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def nobody():
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}/"


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.8)


def assert_alone(file):
    assert file.read_bytes() == GOOD
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("path", ["good", "of-unknown-length", "moved"])
def test_what_a_mirror_gives_is_put_there_and_nothing_beside_it(mirror, tmp_path, path):
    download([mirror + path], MD5, tmp_path / "file")
    assert_alone(tmp_path / "file")
    umask = os.umask(0o22)
    os.umask(umask)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask  # others may read it, as any file


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("bad", REASONS)
def test_the_next_mirror_is_tried_after_a_bad_one(mirror, tmp_path, bad):
    download([mirror + bad, mirror + "good"], MD5, tmp_path / "file")
    assert_alone(tmp_path / "file")


@pytest.mark.usefixtures("impatient")
def test_if_all_are_bad_the_error_says_why_each_is(mirror, nobody, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"what was there before")
    local = tmp_path / "local"
    local.write_bytes(GOOD)
    told = {mirror + path: reason for path, reason in REASONS.items()}
    told |= {
        nobody: "Connection refused",
        local.as_uri(): "unknown url type: file",
        "here": "unknown url type: 'here'",
        "http://a b/": "URL can't contain control characters. 'a b' (found at least ' ')",
    }
    with pytest.raises(UserError) as error:
        download(list(told), MD5, file)
    first, *rest = str(error.value).splitlines()
    assert first == f"{file} could not be downloaded; try again later, or put it there (md5 {MD5}):"
    assert len(rest) == len(told)
    for line, (url, reason) in zip(rest, told.items(), strict=True):
        assert line.startswith(f"  {url}: {reason}")
    assert file.read_bytes() == b"what was there before"
    assert sorted(tmp_path.iterdir()) == [file, local]


def test_a_slow_mirror_has_some_time_to_begin(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SLOWEST", 10**12)
    download([mirror + "good"], MD5, tmp_path / "file")
    assert_alone(tmp_path / "file")


def test_a_folder_that_cannot_be_written_is_no_mirrors_fault(mirror, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        download([mirror + "good"], MD5, tmp_path / "nowhere" / "file")


# --- processes of their own -------------------------------------------------------------------------------------------


def process(url, file):
    code = (
        "import sys; from pathlib import Path; from litlab.data.download import download\n"
        "download([sys.argv[1]], sys.argv[2], Path(sys.argv[3]))"
    )
    arguments = [sys.executable, "-c", code, url, MD5, str(file)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_at_once_leave_one_good_copy_and_print_nothing(mirror, tmp_path):
    processes = [process(mirror + "for-two-at-once", tmp_path / "file") for _ in range(2)]
    assert [process.communicate(timeout=60) for process in processes] == [("", "")] * 2
    assert [process.returncode for process in processes] == [0, 0]
    assert_alone(tmp_path / "file")


def test_one_that_is_stopped_leaves_nothing(mirror, tmp_path):
    stopped = process(mirror + "stalled", tmp_path / "file")
    until = time.monotonic() + 60
    while not any(file.stat().st_size for file in tmp_path.iterdir()):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert not (tmp_path / "file").exists()
    stopped.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in stopped.communicate(timeout=60)[1]
    assert list(tmp_path.iterdir()) == []


def test_whoever_sits_at_a_terminal_sees_how_much_has_come(mirror, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    download([mirror + "good"], MD5, tmp_path / "file")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    download([mirror + "good"], MD5, tmp_path / "file")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"{mirror}good" in shown.err
    assert "200.0/200.0 kB" in shown.err
