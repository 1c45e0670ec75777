"""Requests that wait together share passes of a worker: each has the bytes that it has alone, and its own life."""

import concurrent.futures
import re
import subprocess
import urllib.request

import grpc
import harness
import pytest

ROWS = 3
PROMPTS = ["a red star", "a large green triangle to the left of a blue circle", "", "a cat above a dog", "a grey square"]


@pytest.fixture(scope="module")
def server():
    group = {"model": str(harness.BUNDLED), "device": "cpu", "batching": True, "batch_size": ROWS, "warmup": ["128x96"]}
    with harness.Server([], {"groups": [group]}) as one:
        yield one.wait_ready()


def request(number: int, steps: int = 6, count: int = 1):
    pb, _ = harness.api()
    made = pb.GenerateImagesRequest(prompt=pb.Prompt(text=PROMPTS[number % len(PROMPTS)]))
    made.sampling.steps, made.sampling.seed = steps, number
    made.image.width, made.image.height, made.image.count = 128, 96, count
    return made


def passes(server) -> tuple[int, int]:
    """Passes since the start, and images made in them."""
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10) as response:
        text = response.read().decode()
    one = [re.search(rf"^patchflow_batch_size_{what}(?:{{.*}})? (\S+)$", text, re.MULTILINE) for what in ("count", "sum")]
    return tuple(int(float(match[1])) if match else 0 for match in one)


def test_images_have_the_bytes_that_they_have_alone(server):
    asked = [request(number) for number in range(12)]
    alone = [harness.generate(server, one).images for one in asked]
    passes_before, images_before = passes(server)
    assert passes_before == images_before == len(asked)
    with concurrent.futures.ThreadPoolExecutor(len(asked)) as pool:
        together = [result.images for result in pool.map(lambda one: harness.generate(server, one), asked)]
    assert together == alone
    passes_after, images_after = passes(server)
    assert images_after - images_before == len(asked)
    assert passes_after - passes_before <= len(asked) // 2, "they shared passes"


def test_a_request_for_more_images_than_rows_has_all_of_them(server):
    images = harness.generate(server, request(0, count=2 * ROWS + 1)).images
    alone = []
    for index in range(2 * ROWS + 1):
        one = request(0)
        one.sampling.seed = index
        alone.append(harness.generate(server, one).images[0])
    assert images == alone


def test_one_that_is_cancelled_costs_the_others_nothing(server):
    asked = [request(number, steps=40) for number in range(ROWS)]
    alone = [harness.generate(server, one).images for one in asked]
    with concurrent.futures.ThreadPoolExecutor(ROWS) as pool:
        leaver = server.stub.GenerateImages(asked[0], timeout=60)
        others = [pool.submit(harness.generate, server, one) for one in asked[1:]]
        for message in leaver:
            if message.progress.step > 3:
                leaver.cancel()
                break
        with pytest.raises(grpc.RpcError):
            list(leaver)
        assert leaver.code() == grpc.StatusCode.CANCELLED
        assert [other.result(60).images for other in others] == alone[1:]


@pytest.mark.parametrize("flags, says", [
    (["--batch-size", "17"], "--batch-size: Value 17 not in range"),
    (["--batch-size", "0"], "--batch-size: Value 0 not in range"),
    (["--batch-size", "2", "--group-ranks", "2"], "--batch-size: 2 needs all ranks of the group on this worker, but it "
                                                  "has 1 of the 2 of --group-ranks"),
])
def test_a_worker_refuses_batches_that_it_cannot_make(flags, says, tmp_path):
    command = [harness.BIN / "patchflow-worker", "--model", harness.BUNDLED, "--device", "cpu", "--layout",
               "pipefusion=2" if "--group-ranks" in flags else "", "--socket", tmp_path / "socket", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and says in done.stderr, done.stderr
