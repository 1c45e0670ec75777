"""The client that awaits, over grpc.aio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from patchflow.v1 import image_generation_pb2 as pb
from patchflow.v1 import image_generation_pb2_grpc as services

from .channel import TLS, Token, call_metadata, channel_options, check_token
from .errors import Cancelled, error_from_rpc
from .events import Accepted, Event, Image, Result
from .models import Model, Status
from .request import ImageRequest, RequestFields, State, as_request, stream_options
from .retry import Retrier, RetryPolicy
from .session import Session
from .version import VERSION

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AsyncGeneration(AsyncIterator[Event]):
    """As Generation, for `async for` and `async with`. One task iterates; others of the same loop may cancel()."""

    def __init__(self, client: AsyncClient, session: Session, token: Token):
        self._client = client
        self._session = session
        self._token = token
        self._call: Any = None
        self._wait = 0.0
        self._stop = asyncio.Event()
        self._ended = False

    @property
    def request_id(self) -> str:
        return self._session.request_id

    @property
    def accepted(self) -> Accepted | None:
        """The newest; after a retry it may name another plan than the event did."""
        return self._session.accepted

    async def __anext__(self) -> Event:
        while not self._ended:
            try:
                if self._call is None:
                    await self._open()
                async for message in self._call:
                    event = self._session.take(message)
                    if event is not None:
                        return event
                self._session.finish()
                self._ended = True
            except grpc.RpcError as error:
                self._call = None
                try:
                    retrying = self._session.failed(error_from_rpc(error))
                except BaseException:
                    self._ended = True
                    raise
                self._wait = retrying.delay
                return retrying
            except BaseException:
                self.close()
                raise
        raise StopAsyncIteration

    async def result(self) -> Result:
        """Runs to the end and gathers the images."""
        images = [event async for event in self if isinstance(event, Image)]
        session = self._session
        if session.accepted is None or session.completed is None:
            raise RuntimeError("the generation was closed, or its events were taken before result()")
        return Result(session.accepted, tuple(images), session.completed, session.retries)

    async def cancel(self) -> State:
        """Stops the work at the server, within one step; the iteration then raises Cancelled."""
        state = await self._client.cancel(self.request_id, token=self._token)
        self._stop.set()
        return state

    def close(self) -> None:
        """Drops the stream. Idempotent."""
        self._ended = True
        self._stop.set()
        if self._call is not None:
            self._call.cancel()

    async def __aenter__(self) -> AsyncGeneration:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def _open(self) -> None:
        try:
            await asyncio.wait_for(self._stop.wait(), self._wait)
        except asyncio.TimeoutError:
            pass
        if self._stop.is_set():
            raise Cancelled(grpc.StatusCode.CANCELLED, "cancelled while waiting for a retry")
        call = self._session.next_call()
        method = self._client._stub.FetchGeneration if call.is_fetch else self._client._stub.GenerateImages
        self._call = method(call.request, timeout=call.timeout, metadata=self._client._metadata(self._token))


class AsyncClient:
    """As Client, within one event loop; made while the loop runs."""

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        tls: TLS | None = None,
        token: Token = None,
        retry: RetryPolicy = RetryPolicy(),
        timeout: float = 300,
    ):
        check_token(address, token, tls)
        self._address, self._tls, self._token = address, tls, token
        self._retry, self._timeout = retry, timeout
        options = channel_options(address, tls, VERSION)
        self._channel = (
            grpc.aio.secure_channel(address, tls.credentials(), options)
            if tls
            else grpc.aio.insecure_channel(address, options)
        )
        self._stub = services.ImageGenerationServiceStub(self._channel)

    async def generate(
        self,
        request: ImageRequest | str,
        *,
        timeout: float | None = None,
        token: Token = None,
        **fields: Unpack[RequestFields],
    ) -> Result:
        """Makes images and waits for them."""
        async with self.stream(request, timeout=timeout, token=token, **fields) as generation:
            return await generation.result()

    def stream(
        self,
        request: ImageRequest | str,
        *,
        timeout: float | None = None,
        token: Token = None,
        **fields: Unpack[RequestFields],
    ) -> AsyncGeneration:
        """Makes images; iterate over the events. The call is made with the first of them."""
        seconds = self._timeout if timeout is None else timeout
        proto = as_request(request, fields).to_proto(seconds)
        return AsyncGeneration(self, Session(proto, self._retry, seconds), token)

    def fetch(
        self,
        request_id: str,
        *,
        progress_every: int = 1,
        preview_every: int = 0,
        preview_edge: int = 0,
        timeout: float | None = None,
        token: Token = None,
    ) -> AsyncGeneration:
        """The events of a live or finished generation, from its acceptance."""
        stream = stream_options(progress_every, preview_every, preview_edge)
        proto = pb.FetchGenerationRequest(request_id=request_id, stream=stream)
        return AsyncGeneration(self, Session(proto, self._retry, self._timeout if timeout is None else timeout), token)

    async def validate(
        self,
        request: ImageRequest | str,
        *,
        timeout: float | None = None,
        token: Token = None,
        **fields: Unpack[RequestFields],
    ) -> Accepted:
        """Has a request checked; nothing runs."""
        seconds = self._timeout if timeout is None else timeout
        proto = as_request(request, fields).to_proto(seconds, validate_only=True)
        async with AsyncGeneration(self, Session(proto, self._retry, seconds), token) as generation:
            return (await generation.result()).accepted

    async def status(self, request_id: str, *, timeout: float | None = None, token: Token = None) -> Status:
        """Where a generation is."""
        request = pb.GetGenerationRequest(request_id=request_id)
        return Status.of(await self._unary(self._stub.GetGeneration, request, timeout, token))

    async def cancel(self, request_id: str, *, timeout: float | None = None, token: Token = None) -> State:
        """Stops a generation; returns its state after that. May come before the generation."""
        request = pb.CancelGenerationRequest(request_id=request_id)
        return State((await self._unary(self._stub.CancelGeneration, request, timeout, token)).state)

    async def models(self, *, timeout: float | None = None, token: Token = None) -> list[Model]:
        """All models, by name."""
        response = await self._unary(self._stub.ListModels, pb.ListModelsRequest(), timeout, token)
        return [Model.of(model) for model in response.models]

    async def model(self, name: str, *, timeout: float | None = None, token: Token = None) -> Model:
        """One model."""
        request = pb.GetModelRequest(name=name)
        return Model.of((await self._unary(self._stub.GetModel, request, timeout, token)).model)

    async def close(self) -> None:
        await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _metadata(self, token: Token) -> tuple[tuple[str, str], ...]:
        check_token(self._address, token, self._tls)
        return call_metadata(self._token if token is None else token)

    async def _unary(self, method: Callable[..., Any], request: Any, timeout: float | None, token: Token) -> Any:
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        retrier = Retrier(self._retry, deadline)
        while True:
            left = max(0.001, deadline - time.monotonic())
            try:
                return await method(request, timeout=left, metadata=self._metadata(token))
            except grpc.RpcError as rpc_error:
                error = error_from_rpc(rpc_error)
            delay = retrier.next_delay(error, time.monotonic())
            if delay is None:
                raise error
            await asyncio.sleep(delay)
