"""The server's answers are those of the package, and only those who may ask get them."""

import asyncio
import io
import json
import re
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("fastapi", reason="the server is not installed: pip install 'alexnet[serve]'")

from serve_makers import Serving, form, serving, wait_until

import alexnet
from alexnet.analysis.features import extract_features
from alexnet.analysis.figures.neighbours import find_neighbours
from alexnet.analysis.figures.saliency import occlusion_map
from alexnet.analysis.figures.subject import open_subject
from alexnet.cli import main
from alexnet.cli.console import percent
from alexnet.dataset import Dataset
from alexnet.errors import UsageError
from alexnet.images import Pixels
from alexnet.predict import predict_images
from alexnet.progress import Silent
from alexnet.serve import check_libraries, inside, names_of
from alexnet.serve.app import PAGE
from alexnet.serve.batching import Batcher
from alexnet.serve.gallery import Gallery, open_gallery
from alexnet.serve.limits import Limits, Refusal
from alexnet.serve.predictor import Predictor
from alexnet.serve.protocol import Timed
from alexnet.serve.server import TOKEN, bind, chosen_token, is_local


@pytest.fixture(scope="module")
def server(tiny_run: Path, tiny_data: Path) -> Iterator[Serving]:
    with serving(tiny_run, tiny_run, data=tiny_data) as running:
        yield running


@pytest.fixture(scope="module")
def pictures(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The test images of the tiny data set as PNG files, larger than the network's images."""
    folder = tmp_path_factory.mktemp("pictures")
    split = Dataset(tiny_data).split("test")
    for number, pixels in enumerate(split.read(range(len(split)))):
        Image.fromarray(pixels).resize((50, 44)).save(folder / f"{number:02}.png")
    return sorted(folder.iterdir())


# Answers.


def test_a_file_has_the_answer_of_predict(
    server: Serving, tiny_run: Path, pictures: list[Path]
) -> None:
    for views in (1, 10):
        (expected,) = predict_images(pictures[3], tiny_run, views=views, top=2)
        (found,) = server.post(f"/predict?views={views}&top=2", pictures[3].read_bytes()).json
        assert found == {**expected.as_json(), "image": "image", "run": "run0"}


def test_many_files_have_the_printed_answers_of_predict(
    server: Serving, tiny_run: Path, pictures: list[Path]
) -> None:
    expected = predict_images(pictures, tiny_run)
    body, kind = form(*((path.name, path.read_bytes()) for path in pictures))
    found = server.post("/predict", body, content_type=kind).json
    assert [each["image"] for each in found] == [path.name for path in pictures]
    for ours, theirs in zip(found, expected, strict=True):
        pairs = [(each["class"], percent(each["probability"])) for each in ours["predictions"]]
        assert pairs == [(name, percent(value)) for name, value in theirs.predictions]


def test_requests_at_a_time_get_their_own_answers(
    server: Serving, tiny_run: Path, pictures: list[Path]
) -> None:
    expected = {path: predict_images(path, tiny_run)[0].predictions for path in pictures}
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda path: server.post("/predict", path.read_bytes()), pictures))
    for path, reply in zip(pictures, replies, strict=True):
        first = reply.json[0]["predictions"][0]
        assert (first["class"], percent(first["probability"])) == (
            expected[path][0][0],
            percent(expected[path][0][1]),
        )


def test_an_accelerated_network_prints_the_same(tiny_run: Path, pictures: list[Path]) -> None:
    fast = Predictor(tiny_run, "fast", accelerate=alexnet.accelerate)
    images = np.stack([fast.decode(path.read_bytes()) for path in pictures[:5]])
    plain = Predictor(tiny_run, "plain").answer(images, 1)
    assert np.allclose(fast.answer(images, 1), plain, atol=2e-6)


def test_features_are_those_of_the_package(
    server: Serving, tiny_run: Path, pictures: list[Path]
) -> None:
    expected = extract_features(tiny_run, pictures[:2], ["conv1", "fc10"])
    body, kind = form(*((path.name, path.read_bytes()) for path in pictures[:2]))
    found = server.post("/features?layer=fc10", body, content_type=kind).json
    assert np.allclose([each["features"]["fc10"] for each in found], expected["fc10"], atol=1e-5)
    path = "/features?layer=conv1&layer=fc10&form=npz"
    reply = server.post(path, body, content_type=kind)
    arrays = np.load(io.BytesIO(reply.body))
    assert arrays["names"].tolist() == [path.name for path in pictures[:2]]
    assert np.allclose(arrays["conv1"], expected["conv1"], atol=1e-5)


def test_a_file_that_is_no_image_keeps_its_place(server: Serving, pictures: list[Path]) -> None:
    files = [
        ("a.png", pictures[0].read_bytes()),
        ("b.txt", b"no"),
        ("c.png", pictures[1].read_bytes()),
    ]
    body, kind = form(*files)
    for path, answer in (("/predict", "predictions"), ("/features?layer=fc10", "features")):
        found = server.post(path, body, content_type=kind).json
        keys = [[key for key in each if key != "run"] for each in found]
        assert keys == [["image", answer], ["image", "error"], ["image", answer]]
        assert [each["image"] for each in found] == ["a.png", "b.txt", "c.png"]
    alone = server.post("/features?layer=fc10", pictures[1].read_bytes()).json
    assert np.allclose(found[2]["features"]["fc10"], alone[0]["features"]["fc10"], atol=1e-5)
    reply = server.post("/features?layer=fc10&form=npz", body, content_type=kind)
    assert np.load(io.BytesIO(reply.body))["names"].tolist() == ["a.png", "c.png"]


def test_curl_without_binary_gets_a_hint(server: Serving, pictures: list[Path]) -> None:
    kind = "application/x-www-form-urlencoded"  # which curl sends with -d and with --data-binary
    image = pictures[0].read_bytes()
    assert server.post("/predict", image, content_type=kind).status == 200
    broken = server.post("/predict", image.replace(b"\n", b""), content_type=kind)
    assert "--data-binary" in broken.json["error"]
    assert "curl" not in server.post("/predict", b"x").json["error"]


def test_the_square_stands_for_the_image(server: Serving, pictures: list[Path]) -> None:
    whole = pictures[5].read_bytes()
    square = server.post("/square", whole).body
    assert Image.open(io.BytesIO(square)).size == (32, 32)
    for path in ("/predict", "/maps/conv1", "/evidence/grad-cam/1", "/views"):
        assert server.post(path, square).body == server.post(path, whole).body


def test_occlusion_is_that_of_the_figure(
    server: Serving, tiny_run: Path, pictures: list[Path]
) -> None:
    found = server.post("/evidence/occlusion/1", pictures[0].read_bytes()).body.splitlines()
    last = json.loads(found[-1])
    model = alexnet.Run.open(tiny_run).load_model()
    predictor = server.service.predictors[0]
    image = predictor.inputs(predictor.decode(pictures[0].read_bytes()))[0]
    assert last["largest"] == pytest.approx(occlusion_map(model, image, 1).max(), abs=1e-6)
    assert last["done"] == last["count"]


def test_computing_ends_when_the_client_has_gone(
    server: Serving, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = list[int]()

    def endless(*_: object) -> Iterator[dict[str, int]]:
        while True:
            time.sleep(0.02)
            parts.append(len(parts))
            yield {"done": len(parts)}

    monkeypatch.setattr(inside, "occlusion", endless)
    body = pictures[0].read_bytes()
    with server.connect() as client:
        head = (
            f"POST /evidence/occlusion/1 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}"
        )
        client.sendall(f"{head}\r\n\r\n".encode() + body)
        while b'"done": 3' not in client.recv(65536):
            pass
    time.sleep(0.5)
    count = len(parts)
    time.sleep(0.3)
    assert len(parts) == count


def test_the_table_is_that_of_the_summary(server: Serving, tiny_run: Path) -> None:
    summary = alexnet.summarize(alexnet.Run.open(tiny_run).load_model())
    found = server.get("/network").json
    assert found["parameters"] == summary.parameters == sum(r["parameters"] for r in found["rows"])
    outputs = {row.name: list(row.output) for row in summary.layers}
    assert all(outputs[row["name"]] == row["output"] for row in found["rows"])


def test_the_strongest_map_comes_first(
    server: Serving, tiny_run: Path, pictures: list[Path]
) -> None:
    model = alexnet.Run.open(tiny_run).load_model()
    row = next(name for name, _ in model.named_children() if name.startswith("relu"))
    maps = extract_features(tiny_run, pictures[:1], row)[row][0]
    found = server.post("/maps/conv1", pictures[0].read_bytes()).json
    assert found["shape"] == list(maps.shape)
    assert found["maps"][0]["unit"] == int(maps.mean((1, 2)).argmax())
    unit = server.post("/maps/conv1/3", pictures[0].read_bytes()).json
    assert tuple(unit["place"]) == np.unravel_index(maps[3].argmax(), maps[3].shape)


def test_ten_views_have_the_mean_of_predict(
    server: Serving, tiny_run: Path, pictures: list[Path]
) -> None:
    (expected,) = predict_images(pictures[1], tiny_run, views=10)
    found = server.post("/views", pictures[1].read_bytes()).json
    assert len(found["views"]) == 10
    for ours, (name, value) in zip(found["mean"], expected.predictions, strict=False):
        assert ours["title"] == name
        assert ours["probability"] == pytest.approx(value, abs=1e-9)


def test_the_nearest_images_are_those_of_the_figure(
    server: Serving, tiny_run: Path, tiny_data: Path
) -> None:
    assert server.service.gallery
    wait_until(lambda: server.service.gallery and server.service.gallery.index, 60)
    subject = open_subject(tiny_run, tiny_data)
    expected = find_neighbours(subject, np.array([4]), 8)
    file = io.BytesIO()
    Image.fromarray(subject.split.read([4])[0]).save(file, "PNG")
    found = server.post("/nearest", file.getvalue()).json
    distances = [each["distance"] for each in found["images"]]
    assert distances == pytest.approx(expected.distances[0].tolist(), rel=1e-4)
    patches = server.get("/patches/conv1/2").json
    assert len(patches["patches"]) == 9
    assert patches["values"] == sorted(patches["values"], reverse=True)


def test_a_run_with_an_index_needs_no_data_set_named(
    tiny_run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    alexnet.index_images(tiny_data, run)
    subject = open_subject(run, tiny_data)
    expected = find_neighbours(subject, np.array([9]), 8)
    file = io.BytesIO()
    Image.fromarray(subject.split.read([9])[0]).save(file, "PNG")
    with serving(run) as running:
        assert running.get("/about").json["runs"][0]["data"]
        found = running.post("/nearest", file.getvalue()).json  # at once
        assert found["searched"] == 39
        distances = [each["distance"] for each in found["images"]]
        assert distances == pytest.approx(expected.distances[0].tolist(), rel=1e-4)
        titles = [subject.titles[subject.train.labels[i]] for i in expected.images[0].tolist()]
        assert [each["title"] for each in found["images"]] == titles
        wait_until(lambda: running.get("/patches/conv1/2").status == 200, 60)


class Notes(Silent):
    def __init__(self) -> None:
        self.lines = list[str]()

    def note(self, message: str) -> None:
        self.lines.append(message)


def test_what_becomes_of_an_index_is_told(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    def opened(path: Path, data: Path | None) -> tuple[Gallery | None, list[str]]:
        notes = Notes()
        return open_gallery(Predictor(path, "run"), data, notes), notes.lines

    assert opened(tiny_run, None) == (None, [])
    gallery, lines = opened(tiny_run, tiny_data)
    assert gallery
    assert lines[0].endswith(f"to keep it: alexnet index {tiny_data} --run {tiny_run}")
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    alexnet.index_images(tiny_data, run)
    gallery, lines = opened(run, tiny_data)
    assert gallery
    assert gallery.index
    assert lines == []
    facts = json.loads((run / "index/index.json").read_text())
    gone = facts | {"data": facts["data"] | {"path": str(tmp_path / "gone")}}
    (run / "index/index.json").write_text(json.dumps(gone))
    gallery, (line,) = opened(run, None)
    assert gallery is None
    assert line.endswith("give --data")
    other = facts | {"weights": {"file": "step-00000001.safetensors", "sha256": "0" * 64}}
    (run / "index/index.json").write_text(json.dumps(other))
    gallery, (line,) = opened(run, tiny_data)
    assert gallery
    assert gallery.index is None
    assert "of other weights" in line
    assert opened(run, None)[0] is None


def test_a_training_is_told_as_it_was_logged(server: Serving, tiny_run: Path) -> None:
    found = server.get("/training").json
    rows = alexnet.Run.open(tiny_run).metrics()
    assert found["epochs"] == [row for row in rows if row.get("kind") == "epoch"]
    assert found["training"] is False
    assert found["steps"]


def test_what_is_wrong_is_told_in_a_line(server: Serving, pictures: list[Path]) -> None:
    image = pictures[0].read_bytes()
    for path, status, text in (
        ("/predict?views=3", 400, "1 or 10 views"),
        ("/predict?top=0", 400, "top"),
        ("/predict?run=other", 404, "run0, run1"),
        ("/features", 400, "layer"),
        ("/features?layer=gone", 400, "no layer gone"),
        ("/maps/gone", 400, "no layer gone"),
        ("/maps/conv1/9999", 400, "units 0 to"),
        ("/evidence/grad-cam/99", 400, "classes 0 to 2"),
        ("/evidence/occlusion/99", 400, "classes 0 to 2"),
        ("/evidence/other/0", 404, "Not Found"),
        ("/gone", 404, "Not Found"),
    ):
        reply = server.post(path, image)
        assert reply.status == status, path
        assert reply.json.keys() == {"error"}
        assert text in reply.json["error"], reply.json
    assert server.get("/predict").status == 405
    for path in ("/filters/pool1", "/preferred/pool1/0", "/patches/pool1/0", "/samples/gone"):
        assert server.get(path).status in (400, 404)


# Batches.


def test_what_waits_goes_together_and_a_full_queue_refuses() -> None:
    sizes = list[int]()

    def answer(images: Pixels, views: int) -> NDArray[np.float64]:
        sizes.append(len(images))
        return (images[:, :1, 0, 0] * float(views)).astype(np.float64)

    async def ask() -> None:
        with ThreadPoolExecutor(1) as thread:
            batcher = Batcher(answer, thread, Limits(batch=4, queue=6))
            images = [np.full((2, 2, 3), number, np.uint8) for number in range(7)]
            with pytest.raises(Refusal, match="too many"):
                await batcher.ask(images, 1)
            first = asyncio.create_task(batcher.ask(images[:5], 1))
            second = asyncio.create_task(batcher.ask(images[6:], 10))
            assert [float(row[0]) for row in await first] == [0, 1, 2, 3, 4]
            assert [float(row[0]) for row in await second] == [60]

    asyncio.run(ask())
    assert sizes == [4, 1, 1]


def test_an_error_reaches_those_who_asked_and_nobody_else() -> None:
    def answer(images: Pixels, views: int) -> NDArray[np.float64]:
        if views == 10:
            raise MemoryError
        return images[:, :1, 0, 0].astype(np.float64)

    async def ask() -> None:
        with ThreadPoolExecutor(1) as thread:
            batcher = Batcher(answer, thread, Limits())
            image = np.zeros((2, 2, 3), np.uint8)
            results = await asyncio.gather(
                batcher.ask([image], 10), batcher.ask([image], 1), return_exceptions=True
            )
            assert isinstance(results[0], MemoryError)
            assert isinstance(results[1], list)
            assert len(results[1]) == 1

    asyncio.run(ask())


# Who may ask.


def test_a_token_is_needed_for_all_but_the_page(tiny_run: Path, pictures: list[Path]) -> None:
    token = "a" * 20
    with serving(tiny_run, token=token) as running:
        for path in ("/", "/health", "/page/page.css", "/docs", "/openapi.json"):
            assert running.get(path).status == 200
        for path in ("/about", "/ready", "/metrics", "/samples/boat"):
            assert running.get(path).status == 401
        image = pictures[0].read_bytes()
        assert running.post("/predict", image).status == 401
        assert running.post("/predict", image, authorization="Bearer b").status == 401
        assert running.post("/predict", image, authorization=f"Bearer {token}").status == 200


def test_a_public_address_needs_a_token_or_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    assert is_local("127.0.0.1")
    assert is_local("::1")
    assert is_local("localhost")
    assert not is_local("0.0.0.0")
    assert not is_local("example.org")
    assert chosen_token("127.0.0.1", no_auth=False) is None
    with pytest.raises(UsageError, match="--no-auth"):
        chosen_token("0.0.0.0", no_auth=False)
    assert chosen_token("0.0.0.0", no_auth=True) is None
    monkeypatch.setenv(TOKEN, "x" * 32)
    assert chosen_token("0.0.0.0", no_auth=False) == "x" * 32
    monkeypatch.setenv(TOKEN, "short")
    with pytest.raises(UsageError, match="fewer than 16"):
        chosen_token("127.0.0.1", no_auth=False)


def test_other_names_and_other_sites_are_refused(server: Serving) -> None:
    assert server.get("/about", host="attacker.example").status == 421
    assert server.get("/about", host=f"localhost:{server.port}").status == 200
    image = b"x"
    assert server.post("/predict", image, sec_fetch_site="cross-site").status == 403
    assert server.post("/predict", image, sec_fetch_site="same-origin").status == 400


def test_answers_are_sent_at_once(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nagle's algorithm is off: with it each answer waits 40 ms for the client to confirm."""
    seen, before = list[int](), Timed.connection_made

    def connected(self: Timed, transport: asyncio.BaseTransport) -> None:
        own = transport.get_extra_info("socket")
        seen.append(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        before(self, transport)

    monkeypatch.setattr(Timed, "connection_made", connected)
    assert server.get("/health").status == 200
    assert seen == [1]


def test_a_port_in_use_is_named(
    server: Serving, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--run", str(tiny_run), "--port", str(server.port)]) == 2
    assert f"port {server.port}" in capsys.readouterr().err
    with bind("127.0.0.1", 0) as own:
        assert own.getsockname()[1] > 0


def test_without_the_libraries_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("alexnet.serve.LIBRARIES", ("fastapi", "not_installed_at_all"))
    with pytest.raises(UsageError, match=r"alexnet\[serve\]"):
        check_libraries()


def test_runs_of_one_name_are_told_apart() -> None:
    assert names_of([Path("a/run"), Path("b/run"), Path("c/other")]) == ["run", "run-2", "other"]


# The page and the metrics.


def test_the_page_asks_for_nothing_from_elsewhere(server: Serving) -> None:
    for path in PAGE.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/", "")
        assert not re.search(r"https?://|url\(|@import|\bstyle=|<script>|\bon\w+=\"", text), path
        assert "innerHTML" not in text
        reply = server.get(f"/page/{path.name}")
        assert reply.body == path.read_bytes()
        assert reply.headers["x-content-type-options"] == "nosniff"
    policy = server.get("/").headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")


def test_every_file_of_the_page_is_used() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in PAGE.iterdir()}
    named = set(re.findall(r"[\w-]+\.(?:js|css|svg)", " ".join(texts.values())))
    assert set(texts) - named == {"index.html", "docs.html"}


def test_metrics_count_endpoints_not_what_clients_invent(server: Serving) -> None:
    server.get("/samples/boat")
    server.get("/invented/by/a/client")
    text = server.get("/metrics").body.decode()
    assert 'alexnet_requests_total{path="/samples/{name}",status="200"}' in text
    assert 'path="other",status="404"' in text
    assert "invented" not in text
    assert torch.get_num_threads() >= 1


def test_the_metrics_are_read_by_prometheus(server: Serving) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    def health() -> float:
        families = text_string_to_metric_families(server.get("/metrics").body.decode())
        samples = [one for family in families for one in family.samples]
        wanted = ("alexnet_requests_total", {"path": "/health", "status": "200"})
        return sum(one.value for one in samples if (one.name, one.labels) == wanted)

    before = health()
    server.get("/health")
    assert health() == before + 1


def test_the_description_names_what_is_sent(server: Serving, pictures: list[Path]) -> None:
    described = server.get("/openapi.json").json["paths"]
    image = pictures[0].read_bytes()
    replies = {
        "/predict": server.post("/predict", image),
        "/features": server.post("/features?layer=fc10&form=npz", image),
        "/square": server.post("/square", image),
        "/samples/{name}": server.get("/samples/boat"),
        "/metrics": server.get("/metrics"),
        "/about": server.get("/about"),
    }
    for path, reply in replies.items():
        (operation,) = described[path].values()
        kind = reply.headers["content-type"].partition(";")[0]
        assert kind in operation["responses"]["200"]["content"], path
    assert all(
        "422" not in one["responses"] for path in described.values() for one in path.values()
    )
    schema = described["/predict"]["post"]["responses"]["200"]["content"]["application/json"]
    (answer,), whole = replies["/predict"].json, schema["schema"]["items"]["anyOf"][0]
    assert list(answer) == whole["required"]
    inner = whole["properties"]["predictions"]["items"]
    assert list(answer["predictions"][0]) == inner["required"]


@pytest.mark.slow
def test_requests_made_from_the_servers_description_cause_no_error(server: Serving) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    from hypothesis import HealthCheck, given, settings

    count = 0
    for operation in schema.get_all_operations():
        case_of = operation.ok().as_strategy()

        @settings(
            max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(case=case_of)
        def call(case: object) -> None:
            response = case.call()  # type: ignore[attr-defined]
            assert response.status_code != 500
            assert response.status_code < 500 or response.status_code == 503

        call()
        count += 1
    assert count >= 15
