"""A front end that is replaced, as a rolling upgrade does it: SIGTERM, and another process on the same store."""

import signal
import time

import grpc
import harness
import pytest

PROMPTS = {"done": "a red star", "running": "a blue circle", "queued": "a green square"}


def request(name: str):
    pb, _ = harness.api()
    asked = pb.GenerateImagesRequest(request_id=name, prompt=pb.Prompt(text=PROMPTS[name]))
    asked.image.count = 2
    asked.sampling.steps, asked.sampling.seed = 4 if name == "done" else 24, 7
    asked.scheduling.on_disconnect = pb.DISCONNECT_POLICY_DETACH
    return asked


def fetch(server, name: str) -> list[bytes]:
    pb, _ = harness.api()
    images: dict[int, bytes] = {}
    for wrapped in server.stub.FetchGeneration(pb.FetchGenerationRequest(request_id=name), timeout=120):
        if wrapped.message.WhichOneof("event") == "image_chunk":
            chunk = wrapped.message.image_chunk
            images[chunk.image_index] = images.get(chunk.image_index, b"") + chunk.data
    return [images[index] for index in sorted(images)]


def replace(server: harness.Server):
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(90) == 0
    server.channel.close()
    server.launch()


@pytest.mark.parametrize("timeout", ["1s", "60s"], ids=["cut off", "drained"])
def test_fetch_gives_the_same_bytes_after_an_upgrade(server, timeout):
    """What had ended, what ran and what waited, whether the old process could still finish it or not."""
    undisturbed = {name: harness.generate(server, request(name)).images for name in PROMPTS}
    extra = {"store": {"directory": "store"}, "drain": {"timeout": timeout}}
    with harness.Server([harness.Group(harness.BUNDLED)], extra) as upgraded:
        upgraded.wait_ready()
        assert harness.generate(upgraded, request("done")).images == undisturbed["done"]
        for name in ("running", "queued"):
            call = upgraded.stub.GenerateImages(request(name), timeout=60)
            assert next(call).HasField("accepted")
            call.cancel()
        replace(upgraded)
        for name, images in undisturbed.items():
            assert fetch(upgraded, name) == images, name
        replace(upgraded)
        assert fetch(upgraded, "queued") == undisturbed["queued"]


def test_a_result_is_gone_after_its_time(server):
    pb, _ = harness.api()
    extra = {"store": {"directory": "store", "max_age": "1s"}, "limits": {"result_age": "1s"}}
    with harness.Server([harness.Group(harness.BUNDLED)], extra) as upgraded:
        upgraded.wait_ready()
        harness.generate(upgraded, request("done"))
        time.sleep(1.2)
        replace(upgraded)
        with pytest.raises(grpc.RpcError) as caught:
            list(upgraded.stub.FetchGeneration(pb.FetchGenerationRequest(request_id="done"), timeout=10))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
