"""Previews over gRPC from a real worker with the bundled model: which come, in which order, and how good they are."""

import io
import time

import grpc
import harness
import numpy as np
import pytest
from PIL import Image


def request(steps: int, every: int, edge: int = 0, count: int = 1):
    pb, _ = harness.api()
    made = pb.GenerateImagesRequest(prompt=pb.Prompt(text="a red circle above a cat on a light blue background"))
    made.sampling.steps, made.sampling.seed, made.image.count = steps, 5, count
    made.stream.preview_every_steps, made.stream.preview_max_edge = every, edge
    return made


def messages(server, asked, pause_s: float = 0) -> list:
    """All of a stream; the reader pauses after each message."""
    received = []
    for message in server.stub.GenerateImages(asked, timeout=300):
        received.append(message)
        time.sleep(pause_s)
    sequences = [message.sequence for message in received]
    assert sequences == sorted(set(sequences))
    return received


def previews(received: list) -> list:
    return [message.preview for message in received if message.WhichOneof("event") == "preview"]


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return np.asarray(image.convert("RGB")).astype(float)


def images(received: list) -> dict[int, bytes]:
    files: dict[int, bytes] = {}
    for message in received:
        if message.WhichOneof("event") == "image_chunk":
            index = message.image_chunk.image_index
            files[index] = files.get(index, b"") + message.image_chunk.data
    return files


def psnr_db(preview: np.ndarray, image: bytes) -> float:
    with Image.open(io.BytesIO(image)) as whole:
        small = whole.convert("RGB").resize((preview.shape[1], preview.shape[0]), Image.Resampling.BOX)
    return 10 * np.log10(255**2 / np.mean((preview - np.asarray(small).astype(float)) ** 2))


def test_previews_come_in_order_and_end_close_to_the_image(server):
    pb, _ = harness.api()
    asked = request(steps=8, every=2, edge=32)
    received = messages(server, asked)
    shown = previews(received)
    steps = [preview.step for preview in shown]
    # Conflation may leave some out where the machine is busy, never the last: decoding takes longer than drawing.
    assert steps == sorted(set(steps)) and set(steps) <= {2, 4, 6, 8} and steps[-1] == 8
    assert all(preview.image_index == 0 and preview.format == pb.IMAGE_FORMAT_PNG for preview in shown)
    kinds = [message.WhichOneof("event") for message in received]
    assert max(i for i, kind in enumerate(kinds) if kind == "preview") < kinds.index("image_header")
    last = pixels(shown[-1].data)
    assert last.shape == (32, 32, 3)
    quality_db = psnr_db(last, images(received)[0])
    print(f"steps {steps}, the last preview is {quality_db:.1f} dB from the image")
    assert quality_db > 15


def test_previews_change_no_byte_of_the_image(server):
    plain = images(messages(server, request(steps=5, every=0)))
    assert images(messages(server, request(steps=5, every=1))) == plain


@pytest.mark.parametrize(("edge", "size"), [(0, 64), (16, 16), (4096, 64)])
def test_the_longest_side_is_the_one_asked_for_up_to_twice_the_latents(server, edge, size):
    asked = request(steps=2, every=1, edge=edge)
    asked.image.width, asked.image.height = 256, 128
    shown = previews(messages(server, asked))
    assert shown and all(pixels(preview.data).shape == (size // 2, size, 3) for preview in shown)


def test_each_image_of_a_request_has_its_own(server):
    received = messages(server, request(steps=4, every=2, edge=32, count=2))
    shown = previews(received)
    places = [(preview.image_index, preview.step) for preview in shown]
    assert places == sorted(set(places))
    assert {(0, 4), (1, 4)} <= set(places) <= {(i, step) for i in (0, 1) for step in (2, 4)}
    files = images(received)
    last = {preview.image_index: pixels(preview.data) for preview in shown}
    for index in (0, 1):
        assert psnr_db(last[index], files[index]) > psnr_db(last[index], files[1 - index])


def test_none_come_unasked_and_bad_numbers_are_refused(server):
    assert previews(messages(server, request(steps=3, every=0))) == []
    for every, edge, field in ((-1, 0, "preview_every_steps"), (1, 5000, "preview_max_edge")):
        with pytest.raises(grpc.RpcError) as refused:
            messages(server, request(steps=3, every=every, edge=edge))
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT and field in refused.value.details()


@pytest.mark.parametrize(
    "layout",
    [{"ulysses": 2}, {"pipefusion": 2, "patches": 4, "warmup_steps": 1}, {"guidance": 2}],
    ids=lambda layout: next(iter(layout)),
)
def test_layouts_show_what_they_make(layout):
    with harness.Server([harness.Group(harness.BUNDLED, ranks=2, layout=layout)]) as server:
        server.wait_ready()
        received = messages(server, request(steps=6, every=3, edge=32))
        shown = previews(received)
        assert [preview.step for preview in shown] in ([3, 6], [6])
        assert psnr_db(pixels(shown[-1].data), images(received)[0]) > 15
        assert images(messages(server, request(steps=6, every=0))) == images(received)
