"""Requests of one shape that wait together are made in one pass, and each has the bytes that it has alone."""

import concurrent.futures
import os
import re
import signal
import time
import urllib.request

import harness
import pytest

BATCH_SIZE = 4
PROMPTS = ["a red circle", "a big yellow star in the centre on a dark blue background", "a green triangle", "a blue square"]


class BatchingGroup(harness.Group):
    def config(self) -> dict:
        return {**super().config(), "batching": True, "batch_size": BATCH_SIZE}


def request(text: str, steps: int = 6, seed: int = 11):
    pb, _ = harness.api()
    made = pb.GenerateImagesRequest(prompt=pb.Prompt(text=text))
    made.sampling.steps = steps
    made.sampling.seed = seed
    made.image.width = made.image.height = 128
    return made


def requests():
    """Four of one shape, which differ in all that may differ."""
    pb, _ = harness.api()
    made = [request(text, seed=11 * i) for i, text in enumerate(PROMPTS)]
    made[1].prompt.negative_text = "grey"
    made[1].output.format = pb.IMAGE_FORMAT_WEBP
    made[2].output.embed_metadata = True
    made[3].stream.preview_every_steps = 2
    return made


def batches(server: harness.Server) -> tuple[int, int]:
    """Passes and their images so far."""
    text = urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10).read().decode()
    return tuple(int(re.search(rf"^patchflow_batch_size_{what}{{.*}} (\d+)", text, re.M)[1]) for what in ("count", "sum"))


def together(server: harness.Server, asked: list, while_they_run=lambda: None) -> list[harness.Result]:
    """Sent while the group makes another image, so that all of them wait when it is free."""
    with concurrent.futures.ThreadPoolExecutor(len(asked) + 1) as threads:
        steps = iter(server.stub.GenerateImages(request("a blocker", steps=40), timeout=120))
        assert any(message.progress.step > 0 for message in steps)
        rest = threads.submit(list, steps)
        calls = [threads.submit(harness.generate, server, one) for one in asked]
        rest.result(120)
        while_they_run()
        return [call.result(120) for call in calls]


@pytest.fixture(scope="module")
def server():
    with harness.Server([BatchingGroup(harness.BUNDLED)]) as running:
        yield running.wait_ready()


def test_each_image_has_the_bytes_that_it_has_alone(server):
    asked = requests()
    alone = [harness.generate(server, one) for one in asked]
    passes, images = batches(server)
    beside = together(server, asked)
    more_passes, more_images = batches(server)
    assert (more_passes - passes, more_images - images) == (2, 5), "the blocker, and four at once"
    for one, other in zip(alone, beside, strict=True):
        assert one.images == other.images
        assert one.accepted.plan_digest == other.accepted.plan_digest
        assert other.completed.attempts == 1
        steps = [(progress.attempt, progress.step) for progress in other.progress]
        assert steps == sorted(steps), "a step falls only when the attempt rises"


def test_the_images_of_one_request_share_a_pass(server):
    one = request("a red circle")
    one.image.count = BATCH_SIZE
    one.output.embed_metadata = True  # Each file names its own seed.
    passes, images = batches(server)
    made = harness.generate(server, one).images
    assert batches(server) == (passes + 1, images + BATCH_SIZE)
    for i, image in enumerate(made):
        single = request("a red circle", seed=11 + i)
        single.output.embed_metadata = True
        assert harness.generate(server, single).images == [image]


def test_a_plan_without_batches_is_another(server):
    with harness.Server([harness.Group(harness.BUNDLED)]) as other:
        other.wait_ready()
        one = request("a red circle", steps=1)
        assert (harness.generate(server, one).accepted.plan_digest
                != harness.generate(other, one).accepted.plan_digest)


def test_a_worker_killed_in_a_batch_costs_none_of_it(server):
    asked = [request(text, steps=40, seed=11 * i) for i, text in enumerate(PROMPTS)]
    undisturbed = [harness.generate(server, one) for one in asked]
    passes, _ = batches(server)

    def kill():
        deadline = time.monotonic() + 60
        # The blocker's pass was counted at its end, that of the batch is at its.
        while batches(server)[0] < passes + 1:
            assert time.monotonic() < deadline, server.log()
            time.sleep(0.01)
        time.sleep(0.1)
        os.kill(int(re.findall(r'"worker started".*"pid":(\d+)', server.log())[-1]), signal.SIGKILL)

    made = together(server, asked, kill)
    for one, other in zip(undisturbed, made, strict=True):
        assert one.images == other.images
        assert other.completed.attempts == 2, "all were in the pass"
