"""Requests that are too large, too slow, too many, no images, or attacks: the server stays up."""

import asyncio
import io
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the server is not installed: pip install 'alexnet[serve]'")

from serve_makers import Serving, answer_of, form, serving, wait_until

from alexnet.cli import main
from alexnet.predict import predict_images
from alexnet.serve.guard import Guard
from alexnet.serve.limits import Limits, Load
from alexnet.serve.predictor import Predictor

CAP = 300_000
LIMITS = Limits(
    body=CAP, images=4, requests=8, headers=1.0, silence=0.7, upload=2.5, queue=16, grace=10
)
CHUNK = 65_536


@pytest.fixture(scope="module")
def server(tiny_run: Path) -> Iterator[Serving]:
    with serving(tiny_run, limits=LIMITS) as running:
        yield running


@pytest.fixture(scope="module")
def looking(tiny_run: Path, tiny_data: Path) -> Iterator[Serving]:
    """A server with the images that its network learned from."""
    with serving(tiny_run, limits=LIMITS, data=tiny_data) as running:
        yield running


def png(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> bytes:
    rng = np.random.default_rng(3)
    file = io.BytesIO()
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))
    image.convert(mode).save(file, "PNG")
    return file.getvalue()


def check_refusal(body: bytes, *secrets: str) -> None:
    """A refusal is one line that tells nothing about the server."""
    for word in (b"Traceback", b"/work", b"site-packages", b".py", *map(str.encode, secrets)):
        assert word not in body, body


# 55: too large.


@pytest.mark.fault(55)
@pytest.mark.parametrize("kind", ["with its length", "chunked", "chunked in small parts"])
def test_a_large_upload_is_refused_while_it_is_read(server: Serving, kind: str) -> None:
    size = 65_536 if kind != "chunked in small parts" else 100
    with server.connect() as connection:
        head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        sent = 0
        try:
            if kind == "with its length":
                connection.sendall(head + b"Content-Length: 100000000\r\n\r\n")
            else:
                connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
                part = b"%x\r\n" % size + bytes(size) + b"\r\n"
                while sent <= CAP + 4 * CHUNK:
                    connection.sendall(part)
                    sent += size
        except ConnectionError:
            pass  # it was closed meanwhile
        received = answer_of(connection)
    assert b" 413 " in received[:20] or (sent and not received)
    assert server.get("/health").status == 200
    wait_until(lambda: server.service.load.bytes == 0)


@pytest.mark.fault(55)
def test_no_more_is_read_than_the_limit_and_one_part() -> None:
    """Without a network: an endless body, of which the parts that are taken are counted."""
    taken, sent = 0, list[Any]()

    async def receive() -> Any:
        nonlocal taken
        taken += CHUNK
        return {"type": "http.request", "body": bytes(CHUNK), "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    async def application(_scope: Any, receive: Any, _send: Any) -> None:
        while True:
            await receive()

    load = Load()
    guard = Guard(application, LIMITS, load=load)
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": []}
    asyncio.run(guard(scope, receive, send))
    assert sent[0]["status"] == 413
    assert (b"connection", b"close") in sent[0]["headers"]
    assert taken <= CAP + CHUNK
    assert load == Load()


@pytest.mark.fault(55)
def test_all_bodies_together_are_limited() -> None:
    async def application(_scope: Any, receive: Any, _send: Any) -> None:
        await receive()

    async def receive() -> Any:
        return {"type": "http.request", "body": bytes(100), "more_body": False}

    sent = list[Any]()

    async def send(message: Any) -> None:
        sent.append(message)

    guard = Guard(application, Limits(bodies=1000), load=Load(bytes=950))
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": []}
    asyncio.run(guard(scope, receive, send))
    assert sent[0]["status"] == 503
    assert guard.load.bytes == 950


@pytest.mark.fault(55)
def test_a_length_that_is_a_lie(server: Serving) -> None:
    image = png()
    head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"
    with server.connect() as connection:  # more was announced than comes
        connection.sendall(head % (len(image) + 10) + image)
        assert b" 408 " in answer_of(connection)[:20]
    with server.connect() as connection:  # less: what follows is no request
        connection.sendall(head % 20 + image)
        assert answer_of(connection).count(b"HTTP/1.1 400") == 2


# 56: no image.

BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "image/png"),
    "text": (b"hello", "image/png"),
    "html": (b"<html><script>alert(1)</script></html>", "image/png"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
    "cut": (png()[:100], "image/png"),
    "address": (b"http://169.254.169.254/latest", "text/plain"),
    "json": (b'{"url": "file:///etc/passwd"}', "application/json"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "image/png"),
    "huge": (png()[:16] + b"\x7f\xff\xff\xff" * 2 + png()[24:], "image/png"),
    "form of nothing": form()[:2],
    "form without end": (form(("a", b"x"))[0][:-4], form()[1]),
    "form without boundary": (form(("a", png()))[0], "multipart/form-data"),
    "form of another boundary": (form(("a", png()))[0], "multipart/form-data; boundary=other"),
    "10,000 parts": form(*[("a", b"x")] * 10_000),
    "10,000 fields": (
        b'--edge\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n' * 4000 + b"--edge--",
        form()[1],
    ),
    "a field": (
        b'--edge\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--edge--',
        form()[1],
    ),
    "odd type": (b"x", "a" * 1000 + ";;;=\x80"),
}


@pytest.mark.fault(56)
@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_is_refused(server: Serving, name: str) -> None:
    body, kind = BAD[name]
    reply = server.post("/predict", body, content_type=kind)
    assert reply.status in (400, 413)
    assert reply.json.keys() == {"error"}
    assert "\n" not in reply.json["error"]
    check_refusal(reply.body, str(server.service.predictors[0].run.path))


@pytest.mark.fault(56)
def test_an_image_with_something_after_it_is_an_image(server: Serving) -> None:
    reply = server.post("/predict", png() + b"<script>alert(1)</script>" + b"PK\3\4")
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-content-type-options"] == "nosniff"


@pytest.mark.fault(56)
def test_images_among_others_are_answered(server: Serving) -> None:
    body, kind = form(("a.png", png()), ("b.txt", b"hello"))
    good, bad = server.post("/predict", body, content_type=kind).json
    assert [good["image"], bad["image"]] == ["a.png", "b.txt"]
    assert len(good["predictions"]) == 3
    assert bad["error"] == "not a JPEG, PNG, WEBP, GIF or BMP image"


ENDPOINTS = {
    "/predict": "/predict",
    "/features": "/features?layer=fc10",
    "/square": "/square",
    "/maps/{layer}": "/maps/conv1",
    "/maps/{layer}/{unit}": "/maps/conv1/0",
    "/evidence/grad-cam/{label}": "/evidence/grad-cam/0",
    "/evidence/occlusion/{label}": "/evidence/occlusion/0",
    "/views": "/views",
    "/nearest": "/nearest",
}
"""A request for each endpoint that takes a body, by its path in the server's description."""


def damaged(rng: np.random.Generator) -> tuple[bytes, str]:
    """Make a body: noise, or an image or form in which bytes were changed, cut or repeated."""
    kinds = ["application/octet-stream", "image/png", form()[1], "multipart/form-data; boundary=x"]
    whole = [rng.bytes(int(rng.integers(300))), png(), form(("a.png", png()))[0]]
    body = bytearray(whole[rng.integers(len(whole))])
    for _ in range(int(rng.integers(8))):
        place = int(rng.integers(len(body) + 1))
        match rng.integers(3):
            case 0:
                del body[place : place + int(rng.integers(50))]
            case 1:
                body[place:place] = rng.bytes(int(rng.integers(20)))
            case _:
                body[place : place + 1] = rng.bytes(1)
    return bytes(body), str(rng.choice(kinds))


def fuzz(server: Serving, endpoint: str, count: int) -> None:
    rng = np.random.default_rng(count)
    for _ in range(count):
        body, kind = damaged(rng)
        reply = server.post(ENDPOINTS[endpoint], body, content_type=kind)
        assert reply.status in (200, 400, 413), (endpoint, body[:200], reply.body)
        if reply.status != 200:
            check_refusal(reply.body)


@pytest.mark.fault(56)
def test_random_bodies_cause_no_error_of_the_server(looking: Serving) -> None:
    described = looking.get("/openapi.json").json["paths"]
    assert set(ENDPOINTS) == {path for path, ways in described.items() if "post" in ways}
    for endpoint in ENDPOINTS:
        fuzz(looking, endpoint, 40)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_ten_thousand_random_bodies_for_each_endpoint(looking: Serving, endpoint: str) -> None:
    fuzz(looking, endpoint, 10_000)


# 57: unusual images.


def unusual() -> dict[str, bytes]:
    rng = np.random.default_rng(5)
    picture = Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8))
    found = {}

    def add(name: str, image: Image.Image, **options: Any) -> None:
        file = io.BytesIO()
        image.save(file, name.partition(".")[2], **options)
        found[name] = file.getvalue()

    frames = [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    add("animated.gif", picture, save_all=True, append_images=frames)
    turned = Image.Exif()
    turned[274] = 6
    add("turned.jpeg", picture, exif=turned, quality=95)
    add("grey.png", picture.convert("L"))
    add("cmyk.jpeg", picture.convert("CMYK"))
    add("alpha.png", picture.convert("RGBA"))
    add("palette.png", picture.convert("P"))
    add("sixteen.png", Image.fromarray(rng.integers(0, 65536, (48, 64), np.uint16)))
    add("lossless.webp", picture, lossless=True)
    add("plain.bmp", picture)
    return found


@pytest.mark.fault(57)
@pytest.mark.parametrize("name", unusual())
def test_unusual_images_have_the_command_lines_answer(
    server: Serving, tiny_run: Path, tmp_path: Path, name: str
) -> None:
    data = unusual()[name]
    (tmp_path / name).write_bytes(data)
    (expected,) = predict_images(tmp_path / name, tiny_run)
    (found,) = server.post("/predict", data).json
    assert found["predictions"] == expected.as_json()["predictions"]


# 58: slow, gone, many.


@pytest.mark.fault(58)
def test_slow_clients_are_given_up(server: Serving) -> None:
    start = time.monotonic()
    slow = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "
    connections = [server.connect() for _ in range(3)]
    silent, drip, stalled = connections
    drip.sendall(slow)
    stalled.sendall(slow + b"1\r\nContent-Length: 1000\r\n\r\nabc")
    for _ in range(20):  # a byte at a time keeps no connection open
        time.sleep(0.1)
        try:
            drip.sendall(b"a")
        except ConnectionError:
            break
    assert b" 408 " in answer_of(stalled)[:20]
    assert answer_of(silent) == b""
    assert answer_of(drip) == b""
    assert time.monotonic() - start < 10
    for connection in connections:
        connection.close()
    assert server.get("/health").status == 200


@pytest.mark.fault(58)
def test_a_body_that_drips_has_an_end(server: Serving) -> None:
    with server.connect() as connection:
        head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head)
        start = time.monotonic()
        try:
            while time.monotonic() - start < 10:
                connection.sendall(b"a")
                time.sleep(0.2)
        except ConnectionError:
            pass
        assert 2 < time.monotonic() - start < 8
    assert server.get("/ready").status == 200


@pytest.mark.fault(58)
def test_clients_that_vanish_leave_nothing(server: Serving) -> None:
    before = set(Path(tempfile.gettempdir()).iterdir())
    body, kind = form(("a.png", png(size=(200, 150))))
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
    for _ in range(10):
        with server.connect() as connection:
            connection.sendall(
                f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:20_000]
            )
    wait_until(lambda: server.service.load == Load())
    assert not any(batcher.arriving for batcher in server.service.batchers.values())
    new = set(Path(tempfile.gettempdir()).iterdir()) - before
    assert not [path for path in new if path.name.startswith("tmp")]


@pytest.mark.fault(58)
def test_of_500_requests_at_a_time_some_are_asked_to_come_again(server: Serving) -> None:
    image = png()
    request = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    request += b"Content-Length: %d\r\n\r\n" % len(image) + image

    async def ask(whole: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(whole)
        try:
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def all_of_them() -> tuple[list[bytes], bytes]:
        many = [asyncio.create_task(ask(request)) for _ in range(500)]
        await asyncio.sleep(0.01)
        health = await ask(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        return await asyncio.gather(*many), health

    replies, health = asyncio.run(all_of_them())
    good = [reply for reply in replies if reply.startswith(b"HTTP/1.1 200")]
    busy = [reply for reply in replies if reply.startswith(b"HTTP/1.1 503")]
    assert health.startswith(b"HTTP/1.1 200")
    assert good
    assert busy
    assert len(good) + len(busy) == 500
    assert all(b"retry-after: 1" in reply.lower() for reply in busy)
    assert server.service.load == Load()


# 59: an orderly end.


@pytest.mark.fault(59)
def test_told_to_stop_it_finishes_what_was_asked(tiny_run: Path) -> None:
    command = [sys.executable, "-m", "alexnet", "serve", "--run", str(tiny_run), "--port", "0"]
    process = subprocess.Popen([*command, "--plain"], stderr=subprocess.PIPE, text=True)
    assert process.stderr
    url = process.stderr.readline().split()[3]
    running = Serving(None, url, int(url.rpartition(":")[2]))  # type: ignore[arg-type]
    wait_until(lambda: running.get("/health").status == 200)
    image = png()
    head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(image)
    connections = [running.connect() for _ in range(4)]
    for connection in connections:
        connection.sendall(head + image[:100])
    wait_until(lambda: b"alexnet_requests_in_flight 4.0" in running.get("/metrics").body)
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: is_closed(running))
    for connection in connections:
        connection.sendall(image[100:])
        assert answer_of(connection).startswith(b"HTTP/1.1 200")
        connection.close()
    assert process.wait(30) == 0
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


def is_closed(running: Serving) -> bool:
    try:
        running.connect(1).close()
    except OSError:
        return True
    return False


# 60: the model.


@pytest.mark.fault(60)
@pytest.mark.timeout(60)  # served, it would never end
@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_a_damaged_model_is_not_served(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    run = copy_of(tiny_run, tmp_path)
    for file in (run / "checkpoints").iterdir():
        hurt(file, damage)
    assert main(["serve", "--run", str(run), "--port", "0"]) == 4
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.fault(60)
@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_a_model_that_is_exchanged_while_it_is_served_answers_as_before(
    tiny_run: Path, tmp_path: Path, damage: str
) -> None:
    run = copy_of(tiny_run, tmp_path)
    with serving(run) as running:
        before = running.post("/predict", png()).json
        for file in (run / "checkpoints").iterdir():
            hurt(file, damage)
        (run / "run.json").unlink()
        assert running.post("/predict", png()).json == before
        assert running.get("/ready").status == 200


@pytest.mark.fault(60)
def test_of_a_training_damaged_weights_are_passed_over(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_of(tiny_run, tmp_path)
    monkeypatch.setattr("alexnet.serve.predictor.is_locked", lambda _: True)
    listed = (run / "checkpoints.json").read_text()
    (run / "checkpoints.json").unlink()
    predictor = Predictor(run, "run")
    assert not predictor.is_ready  # a training that has saved nothing yet
    (run / "checkpoints.json").write_text(listed)
    assert predictor.refresh()
    loaded = predictor.loaded
    for file in (run / "checkpoints").iterdir():
        hurt(file, "changed")
    (run / "checkpoints.json").write_text(listed.replace('"epoch": 2', '"epoch": 1'))
    predictor._loaded = replace(loaded, checkpoint="step-00000000.safetensors")
    assert not predictor.refresh()
    assert predictor.loaded.model is loaded.model


@pytest.mark.fault(60)
def test_a_run_without_weights_is_not_ready(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_of(tiny_run, tmp_path)
    (run / "checkpoints.json").unlink()
    monkeypatch.setattr("alexnet.serve.predictor.is_locked", lambda _: True)
    with serving(run) as running:
        assert running.get("/health").status == 200
        for reply in (running.get("/ready"), running.post("/predict", png())):
            assert reply.status == 503
            assert reply.headers["retry-after"]


def copy_of(run: Path, folder: Path) -> Path:
    copy = folder / "copy"
    (copy / "checkpoints").mkdir(parents=True)
    for path in run.rglob("*.*"):
        (copy / path.relative_to(run)).write_bytes(path.read_bytes())
    return copy


def hurt(file: Path, damage: str) -> None:
    data = file.read_bytes()
    match damage:
        case "missing":
            file.unlink()
        case "cut":
            file.write_bytes(data[:-1000])
        case "changed":
            file.write_bytes(data[:-1000] + bytes([data[-1000] ^ 1]) + data[-999:])


# 61: attacks.


@pytest.mark.fault(61)
def test_html_in_the_name_of_a_file_stays_text(server: Serving) -> None:
    name = "<img src=x onerror=alert(1)>.png"
    body, kind = form((name, png()))
    reply = server.post("/predict", body, content_type=kind)
    assert reply.json[0]["image"] == name
    assert reply.headers["content-type"] == "application/json"
    assert "script-src 'self'" in reply.headers["content-security-policy"]
    assert "unsafe" not in reply.headers["content-security-policy"]


@pytest.mark.fault(61)
@pytest.mark.parametrize(
    "path",
    [
        "/page/../../../etc/passwd",
        "/page/..%2f..%2f..%2fetc%2fpasswd",
        "/page/%2e%2e/app.py",
        "/page//etc/passwd",
        "/page/page.css%00.js",
        "/samples/..%2f..%2fapp.py",
        "/samples/%2e%2e",
        "/../app.py",
        "/page/app.py",
    ],
)
def test_paths_that_lead_outside_lead_nowhere(server: Serving, path: str) -> None:
    with server.connect() as connection:
        line = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        connection.sendall(line.encode())
        received = answer_of(connection)
    assert received.startswith(b"HTTP/1.1 404")
    check_refusal(received.partition(b"\r\n\r\n")[2])


@pytest.mark.fault(61)
def test_many_ranges_cost_nothing(server: Serving) -> None:
    whole = server.get("/page/page.css").body
    ranges = "bytes=" + ",".join(f"{i}-{i}" for i in range(4000))
    start = time.monotonic()
    reply = server.get("/page/page.css", range=ranges)
    assert reply.status == 200
    assert reply.body == whole
    assert time.monotonic() - start < 2
    ranges = "bytes=" + ",".join(f"{i}-" for i in range(20_000))  # more headers than are read
    head = f"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nRange: {ranges}\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(head.encode())
        assert answer_of(connection).startswith(b"HTTP/1.1 400")
