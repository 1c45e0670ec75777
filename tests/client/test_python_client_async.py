"""The installed patchflow-client, awaiting."""

import asyncio
import time

import grpc
import pytest
from scripted_service import PIXELS, refusal, serving

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def breaks_after_an_image(script, context):
    yield from script.accepted(2)
    yield from script.image(0)
    context.abort_with_status(refusal(UNAVAILABLE, "DRAINING", 0.01))


def test_a_broken_stream_goes_on(patchflow):
    async def run(address):
        async with patchflow.AsyncClient(address) as client:
            return [event async for event in client.stream("a star", count=2)]

    with serving(breaks_after_an_image, lambda script, _: script.all(2)) as (address, service):
        events = asyncio.run(run(address))
    assert [type(event).__name__ for event in events if not isinstance(event, patchflow.Progress)] == [
        "Accepted", "Image", "Retrying", "Image", "Completed"
    ]
    assert service.calls[0][1] == service.calls[1][1]


def test_an_error_is_final_or_waited_for(patchflow):
    async def run(address):
        async with patchflow.AsyncClient(address) as client:
            began = time.monotonic()
            result = await client.generate("a star")
            assert time.monotonic() - began >= 0.2 and result.images[0].data == PIXELS
            with pytest.raises(patchflow.NotFound) as error:
                await client.generate("a star", model="other")
            return error.value

    entries = [
        refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", 0.2),
        lambda script, _: script.all(),
        refusal(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
    ]
    with serving(*entries) as (address, _):
        assert asyncio.run(run(address)).reason == "MODEL_NOT_FOUND"


def test_a_wait_for_a_retry_can_be_cancelled(patchflow):
    async def run(address):
        async with patchflow.AsyncClient(address) as client:
            generation = client.stream("a star")
            assert isinstance(await anext(generation), patchflow.Retrying)
            asyncio.get_running_loop().call_later(0.1, lambda: asyncio.ensure_future(generation.cancel()))
            with pytest.raises(patchflow.Cancelled):
                await anext(generation)
            assert [event async for event in generation] == []

    with serving(refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", 60)) as (address, _):
        asyncio.run(asyncio.wait_for(run(address), 20))


def test_a_cancelled_task_drops_its_stream(patchflow, server):
    async def run():
        async with patchflow.AsyncClient(server.address) as client:
            generation = client.stream("a red star", steps=200)

            async def follow():
                async with generation:
                    async for event in generation:
                        if isinstance(event, patchflow.Progress) and event.step >= 1:
                            started.set()

            started = asyncio.Event()
            task = asyncio.create_task(follow())
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while not (status := await client.status(generation.request_id)).state.ended:
                await asyncio.sleep(0.02)
            return status

    status = asyncio.run(asyncio.wait_for(run(), 60))
    assert status.state == patchflow.State.CANCELLED and status.error_reason == "CLIENT_CANCELLED"


def test_many_generations_share_a_client(patchflow, server):
    async def run():
        async with patchflow.AsyncClient(server.address) as client:
            results = await asyncio.gather(*(client.generate("a red star", steps=2, seed=seed) for seed in (1, 2, 1)))
            models = await client.models()
            accepted = await client.validate("a star", model=models[0].name)
            generation = client.stream("a red star", steps=200)
            with pytest.raises(patchflow.Cancelled):
                async for event in generation:
                    if isinstance(event, patchflow.Progress) and event.step >= 1:
                        await generation.cancel()
            return results, accepted

    (first, second, third), accepted = asyncio.run(asyncio.wait_for(run(), 60))
    assert first.images[0].data == third.images[0].data != second.images[0].data
    assert accepted.parameters.model
