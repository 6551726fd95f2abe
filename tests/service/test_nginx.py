"""The configuration of nginx that the documentation gives, in front of a real service."""

import json
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Generator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image
from websockets.sync.client import connect

from tests.servers import program

ROOT = Path(__file__).parents[2]
CONFIGURATION = ROOT / "deploy/nginx/derain.conf"

HOST = "derain.example.com"
PROMPT = "a sentence that nobody else may read"

MAIN = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{}}
http {{
    client_body_temp_path {folder}/bodies;
    proxy_temp_path {folder}/answers;
    fastcgi_temp_path {folder}/unused;
    uwsgi_temp_path {folder}/unused;
    scgi_temp_path {folder}/unused;
    include {folder}/derain.conf;
}}
"""


class Proxy:
    """nginx with the configuration of the documentation, but for addresses and paths."""

    def __init__(self, folder: Path, service: str) -> None:
        self.folder = folder
        self.certificate = folder / "derain.crt"
        self.log = folder / "derain.log"
        self.plain, self.secure = (_free_port() for _ in range(2))
        configuration = CONFIGURATION.read_text()
        for given, wanted in (
            ("server 127.0.0.1:8000;", f"server {urlsplit(service).netloc};"),
            ("listen 80;", f"listen 127.0.0.1:{self.plain};"),
            ("listen 443 ", f"listen 127.0.0.1:{self.secure} "),
            ("/etc/nginx/tls/derain.crt", str(self.certificate)),
            ("/etc/nginx/tls/derain.key", str(folder / "derain.key")),
            ("/var/log/nginx/derain.log", str(self.log)),
        ):
            assert configuration.count(given) == 1, given
            configuration = configuration.replace(given, wanted)
        (folder / "derain.conf").write_text(configuration)
        (folder / "nginx.conf").write_text(MAIN.format(folder=folder))

    def client(self) -> httpx.Client:
        """A client that believes the certificate, and knows where the host is."""
        trusted = ssl.create_default_context(cafile=self.certificate)
        trusted.check_hostname = False
        return httpx.Client(
            base_url=f"https://127.0.0.1:{self.secure}", headers={"Host": HOST}, verify=trusted, timeout=120
        )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def proxy(service_url: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Proxy]:
    nginx, openssl = program("nginx"), program("openssl")
    folder = tmp_path_factory.mktemp("nginx")
    made = Proxy(folder, service_url)
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *(
                "-subj",
                f"/CN={HOST}",
                "-days",
                "2",
                "-out",
                made.certificate,
                "-keyout",
                folder / "derain.key",
            ),
        ],
        check=True,
        capture_output=True,
    )
    command = [nginx, "-p", folder, "-c", folder / "nginx.conf"]
    subprocess.run([*command, "-t"], check=True)
    running = subprocess.Popen(command)
    try:
        patience = time.monotonic() + 60
        while True:
            assert running.poll() is None, (folder / "error.log").read_text()
            assert time.monotonic() < patience
            try:
                socket.create_connection(("127.0.0.1", made.secure), timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield made
    finally:
        running.terminate()
        running.wait(30)


def photograph() -> bytes:
    return next((ROOT / "tests/data/pairs/input").glob("cat*.jpg")).read_bytes()


def test_a_photograph_is_restored_as_without_it(proxy: Proxy, client: httpx.Client) -> None:
    headers = {"Content-Type": "image/jpeg", "X-Request-ID": "through-the-proxy"}
    direct = client.post("/derain", content=photograph(), headers=headers)
    with proxy.client() as through:
        answer = through.post("/derain", content=photograph(), headers=headers)
    assert answer.status_code == 200
    assert answer.content == direct.content
    for name in ("X-Derain-Prompt", "X-Request-ID", "Content-Type"):
        assert answer.headers[name] == direct.headers[name]


def test_the_log_tells_the_request_but_not_the_prompt(proxy: Proxy) -> None:
    with proxy.client() as through:
        answer = through.post(
            "/derain",
            params={"prompt": PROMPT},
            content=photograph(),
            headers={"Content-Type": "image/jpeg", "X-Request-ID": "in-the-log"},
        )
    assert answer.status_code == 200
    patience = time.monotonic() + 10
    while "in-the-log" not in (written := proxy.log.read_text()):  # the line comes after the answer
        assert time.monotonic() < patience, written
        time.sleep(0.02)
    assert "POST /derain 200" in written
    assert "nobody" not in written


def test_what_is_too_large_is_refused_by_the_service_before_it_is_sent(proxy: Proxy) -> None:
    """Were the upload buffered, whoever sends it would wait for its end, and it would lie on the disk."""
    trusted = ssl.create_default_context(cafile=proxy.certificate)
    with (
        socket.create_connection(("127.0.0.1", proxy.secure), timeout=60) as plain,
        trusted.wrap_socket(plain, server_hostname=HOST) as connection,
    ):
        connection.sendall(
            f"POST /derain HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: image/jpeg\r\n"
            f"Content-Length: {512 * 2**20}\r\n\r\n".encode()
        )
        answer = b""
        while b"urn:derain:request:" not in answer and (more := connection.recv(65536)):
            answer += more
    assert answer.startswith(b"HTTP/1.1 413")
    assert b'"name":"body_bytes"' in answer


def test_a_photograph_never_lies_on_the_disk(proxy: Proxy, encode: Callable[..., bytes]) -> None:
    """Neither on its way in nor on its way out, though it is larger than what nginx keeps in memory."""
    folders = [proxy.folder / "bodies", proxy.folder / "answers"]
    untouched = [folder.stat().st_mtime_ns for folder in folders]
    noise = encode(Image.effect_noise((400, 400), 80).convert("RGB"), compress_level=0)
    with proxy.client() as through:
        answer = through.post("/derain", content=noise, headers={"Content-Type": "image/png"})
    assert answer.status_code == 200
    assert min(len(noise), len(answer.content)) > 100_000
    assert [folder.stat().st_mtime_ns for folder in folders] == untouched


def test_frames_of_a_camera_go_through(proxy: Proxy) -> None:
    trusted = ssl.create_default_context(cafile=proxy.certificate)
    trusted.check_hostname = False
    with connect(f"wss://127.0.0.1:{proxy.secure}/stream", ssl=trusted, open_timeout=60) as camera:
        camera.send(photograph())
        told, frame = json.loads(camera.recv(timeout=60)), camera.recv(timeout=60)
    assert told["prompt"].startswith("a photo with")
    assert isinstance(frame, bytes)
    assert frame[:2] == b"\xff\xd8"


def test_metrics_are_not_for_everybody(proxy: Proxy) -> None:
    with proxy.client() as through:
        assert through.get("/metrics").status_code == 404
        assert through.get("/readyz").json() == {"status": "ready"}


def test_who_comes_without_tls_is_sent_to_it(proxy: Proxy) -> None:
    answer = httpx.get(f"http://127.0.0.1:{proxy.plain}/docs", headers={"Host": HOST})
    assert answer.status_code == 301
    assert answer.headers["Location"] == f"https://{HOST}/docs"
