"""Requests per second and latencies of `alexnet serve`, beside a plain server in the same run.

    python scripts/load_test.py RUN OUT.json [--seconds 20] [--clients 1 8 64] [--requests 10000]

The plain server is what one writes first: FastAPI, torchvision's alexnet (or its layers, where
torchvision cannot be imported) and Pillow, one request at a time. RUN is best of one_weird_trick,
which is that network. Both servers run one after the other as processes of their own, on loopback,
with the same client and the same JPEG files, in rounds: other work of the machine then hits both.
Last, ours answers many requests more, and its memory is noted.
"""

import argparse
import asyncio
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alexnet.bench.peers import torchvision_alexnet
from alexnet.bench.report import save_json
from alexnet.demo.drawings import draw_picture
from alexnet.storage.environment import commit, cpu_name, versions
from alexnet.storage.run import Run

IMAGES = 32
SIDE = 320
"""Of the files that are sent; the drawings are enlarged to it."""
MEMORY_EVERY = 1000
RESIZED, CROP = 256, 224
MEAN, STD = [[[0.485]], [[0.456]], [[0.406]]], [[[0.229]], [[0.224]], [[0.225]]]
"""Of torchvision's presets."""


def plain_app(run_path: str) -> Any:
    """Return the plain server of a run."""
    import torch
    from fastapi import FastAPI, Request

    run = Run.open(run_path)
    model, _ = torchvision_alexnet(len(run.classes))
    model.eval()
    app = FastAPI()

    @app.post("/predict")
    async def predict(request: Request) -> list[dict[str, Any]]:
        image = Image.open(io.BytesIO(await request.body())).convert("RGB")
        with torch.inference_mode():
            probabilities = model(as_tensor(image)[None]).softmax(1)[0]
        values, places = probabilities.topk(5)
        pairs = zip(values.tolist(), places.tolist(), strict=True)
        return [{"class": run.classes[place], "probability": value} for value, place in pairs]

    return app


def as_tensor(image: Image.Image) -> Any:
    """Scale and crop as torchvision's presets do: (3, 224, 224), about -2 to 2."""
    import torch

    scale = RESIZED / min(image.size)
    image = image.resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR
    )
    left, top = (image.width - CROP) // 2, (image.height - CROP) // 2
    pixels = np.array(image.crop((left, top, left + CROP, top + CROP)))
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    return (tensor - torch.tensor(MEAN)) / torch.tensor(STD)


def serve_plain(run: str, port: int) -> None:
    """Serve the plain application until the process ends."""
    import uvicorn

    uvicorn.run(plain_app(run), port=port, log_level="warning", http="h11")


def make_images() -> list[bytes]:
    """Return JPEG files of drawings."""
    files = []
    for index in range(IMAGES):
        file = io.BytesIO()
        picture = Image.fromarray(draw_picture(11, "test", index))
        picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


class Server:
    """A server as a process of its own."""

    def __init__(self, kind: str, run: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        if kind == "plain":
            words = [__file__, str(run), "-", "--plain-port", str(self.port)]
        else:
            words = ["-m", "alexnet", "serve", "--run", str(run), "--port", str(self.port)]
        self.process = subprocess.Popen([sys.executable, *words], stderr=subprocess.DEVNULL)
        end = time.monotonic() + 120
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                time.sleep(0.1)

    def memory(self) -> int:
        """Return the bytes that the process holds in memory."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        match = re.search(r"VmRSS:\s+(\d+) kB", text)
        return 1024 * int(match[1]) if match else 0

    def stop(self) -> None:
        """End the process."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


async def client(
    port: int, images: list[bytes], first: int, until: float, most: int, seconds: list[float]
) -> int:
    """Send one request after another; return how many were refused."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    refused = 0
    for number in range(most):
        if time.perf_counter() > until:
            break
        body = images[(first + number) % len(images)]
        head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        start = time.perf_counter()
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", answer)
        await reader.readexactly(int(length[1]) if length else 0)
        if answer.startswith(b"HTTP/1.1 200"):
            seconds.append(time.perf_counter() - start)
            continue
        refused += 1
        if b"connection: close" in answer.lower():
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    return refused


async def measure(
    port: int, images: list[bytes], clients: int, seconds: float, most: int = 10**9
) -> dict[str, Any]:
    """Let `clients` ask for some seconds; return throughput and latencies in milliseconds."""
    latencies: list[float] = []
    start = time.perf_counter()
    refused = await asyncio.gather(
        *(client(port, images, i, start + seconds, most, latencies) for i in range(clients))
    )
    elapsed = time.perf_counter() - start
    values = 1000 * np.array(latencies or [np.nan])
    return {
        "requests": len(latencies),
        "refused": sum(refused),
        "per_second": round(len(latencies) / elapsed, 2),
        **{f"p{q}_ms": round(float(np.percentile(values, q)), 1) for q in (50, 95, 99)},
    }


def compare(run: Path, images: list[bytes], clients: list[int], seconds: float) -> dict[str, Any]:
    """Measure both servers with each number of clients, in turns."""
    found: dict[str, Any] = {"plain": {}, "alexnet": {}}
    for kind in ("plain", "alexnet"):
        server = Server(kind, run)
        try:
            asyncio.run(measure(server.port, images, 8, 5))  # warm up
            for count in clients:
                row = asyncio.run(measure(server.port, images, count, seconds))
                found[kind][str(count)] = row
                print(f"{kind:>8} {count:>3} clients  {row}", flush=True)
        finally:
            server.stop()
    return found


def watch_memory(run: Path, images: list[bytes], requests: int) -> list[dict[str, int]]:
    """Send many requests and note the memory of the server after every `MEMORY_EVERY`."""
    server, rows = Server("alexnet", run), []
    try:
        for done in range(0, requests + 1, MEMORY_EVERY):
            if done:
                asyncio.run(measure(server.port, images, 8, 1e9, MEMORY_EVERY // 8))
            rows.append({"requests": done, "bytes": server.memory()})
            print(f"{done:>6} requests  {rows[-1]['bytes'] / 2**20:.0f} MB", flush=True)
    finally:
        server.stop()
    return rows


def main() -> None:
    """Run the comparison and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plain-port", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.plain_port:
        serve_plain(str(chosen.run), chosen.plain_port)
        return
    images = make_images()
    rounds = [
        compare(chosen.run, images, chosen.clients, chosen.seconds) for _ in range(chosen.rounds)
    ]
    memory = watch_memory(chosen.run, images, chosen.requests) if chosen.requests else []
    save_json(
        chosen.out,
        {
            "command": " ".join(["python", *sys.argv]),
            "commit": commit(),
            "model": Run.open(chosen.run).model_name,
            "hardware": {"cpu": cpu_name(), "cores": os.cpu_count()},
            "versions": versions(),
            "seconds": chosen.seconds,
            "rounds": rounds,
            "summary": summary(rounds),
            "memory": memory,
        },
    )
    print(json.dumps(summary(rounds), indent=2))


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of the rounds for each server and number of clients, and their ratio."""
    keys = ("per_second", "p50_ms", "p95_ms", "p99_ms")
    found: dict[str, Any] = {}
    for clients in rounds[0]["plain"]:
        row = {
            kind: {k: float(np.median([one[kind][clients][k] for one in rounds])) for k in keys}
            for kind in ("plain", "alexnet")
        }
        ratio = row["alexnet"]["per_second"] / row["plain"]["per_second"]
        found[clients] = {**row, "times_as_many": round(ratio, 2)}
    return found


if __name__ == "__main__":
    main()
