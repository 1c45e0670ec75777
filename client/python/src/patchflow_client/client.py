"""The client that blocks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import grpc
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


class Generation(Iterator[Event]):
    """A generation under way: iterate over its events. Made by Client.stream() and Client.fetch().

    Leaving it early (close(), or the end of `with`) drops the stream; the server then does what `on_disconnect` says.
    One thread iterates; cancel() and close() may come from any.
    """

    def __init__(self, client: Client, session: Session, token: Token):
        self._client = client
        self._session = session
        self._token = token
        self._call: Any = None
        self._wait = 0.0
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._ended = False

    @property
    def request_id(self) -> str:
        return self._session.request_id

    @property
    def accepted(self) -> Accepted | None:
        """The newest; after a retry it may name another plan than the event did."""
        return self._session.accepted

    def __next__(self) -> Event:
        while not self._ended:
            try:
                if self._call is None:
                    self._open()
                for message in self._call:
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
        raise StopIteration

    def result(self) -> Result:
        """Runs to the end and gathers the images."""
        images = [event for event in self if isinstance(event, Image)]
        session = self._session
        if session.accepted is None or session.completed is None:
            raise RuntimeError("the generation was closed, or its events were taken before result()")
        return Result(session.accepted, tuple(images), session.completed, session.retries)

    def cancel(self) -> State:
        """Stops the work at the server, within one step; the iteration then raises Cancelled."""
        state = self._client.cancel(self.request_id, token=self._token)
        self._stop.set()
        return state

    def close(self) -> None:
        """Drops the stream. Idempotent."""
        self._ended = True
        self._stop.set()
        with self._lock:
            if self._call is not None:
                self._call.cancel()

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        if self._stop.wait(self._wait):
            raise Cancelled(grpc.StatusCode.CANCELLED, "cancelled while waiting for a retry")
        call = self._session.next_call()
        method = self._client._stub.FetchGeneration if call.is_fetch else self._client._stub.GenerateImages
        with self._lock:
            self._call = method(call.request, timeout=call.timeout, metadata=self._client._metadata(self._token))


class Client:
    """A connection to a server. Thread-safe. Errors are PatchflowError; `timeout` is seconds, retries included.

    `token`: a bearer token, or what returns one for each call (token_from_file). Where a call takes a `token` too, that
    one goes instead, for programs that serve many.
    """

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
            grpc.secure_channel(address, tls.credentials(), options) if tls else grpc.insecure_channel(address, options)
        )
        self._stub = services.ImageGenerationServiceStub(self._channel)

    def generate(
        self,
        request: ImageRequest | str,
        *,
        timeout: float | None = None,
        token: Token = None,
        **fields: Unpack[RequestFields],
    ) -> Result:
        """Makes images and waits for them."""
        with self.stream(request, timeout=timeout, token=token, **fields) as generation:
            return generation.result()

    def stream(
        self,
        request: ImageRequest | str,
        *,
        timeout: float | None = None,
        token: Token = None,
        **fields: Unpack[RequestFields],
    ) -> Generation:
        """Makes images; iterate over the events. The call is made with the first of them."""
        seconds = self._timeout if timeout is None else timeout
        proto = as_request(request, fields).to_proto(seconds)
        return Generation(self, Session(proto, self._retry, seconds), token)

    def fetch(
        self,
        request_id: str,
        *,
        progress_every: int = 1,
        preview_every: int = 0,
        preview_edge: int = 0,
        timeout: float | None = None,
        token: Token = None,
    ) -> Generation:
        """The events of a live or finished generation, from its acceptance."""
        stream = stream_options(progress_every, preview_every, preview_edge)
        proto = pb.FetchGenerationRequest(request_id=request_id, stream=stream)
        return Generation(self, Session(proto, self._retry, self._timeout if timeout is None else timeout), token)

    def validate(
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
        with Generation(self, Session(proto, self._retry, seconds), token) as generation:
            return generation.result().accepted

    def status(self, request_id: str, *, timeout: float | None = None, token: Token = None) -> Status:
        """Where a generation is."""
        request = pb.GetGenerationRequest(request_id=request_id)
        return Status.of(self._unary(self._stub.GetGeneration, request, timeout, token))

    def cancel(self, request_id: str, *, timeout: float | None = None, token: Token = None) -> State:
        """Stops a generation; returns its state after that. May come before the generation."""
        request = pb.CancelGenerationRequest(request_id=request_id)
        return State(self._unary(self._stub.CancelGeneration, request, timeout, token).state)

    def models(self, *, timeout: float | None = None, token: Token = None) -> list[Model]:
        """All models, by name."""
        response = self._unary(self._stub.ListModels, pb.ListModelsRequest(), timeout, token)
        return [Model.of(model) for model in response.models]

    def model(self, name: str, *, timeout: float | None = None, token: Token = None) -> Model:
        """One model."""
        return Model.of(self._unary(self._stub.GetModel, pb.GetModelRequest(name=name), timeout, token).model)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _metadata(self, token: Token) -> tuple[tuple[str, str], ...]:
        check_token(self._address, token, self._tls)
        return call_metadata(self._token if token is None else token)

    def _unary(self, method: Callable[..., Any], request: Any, timeout: float | None, token: Token) -> Any:
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        retrier = Retrier(self._retry, deadline)
        while True:
            left = max(0.001, deadline - time.monotonic())
            try:
                return method(request, timeout=left, metadata=self._metadata(token))
            except grpc.RpcError as rpc_error:
                error = error_from_rpc(rpc_error)
            delay = retrier.next_delay(error, time.monotonic())
            if delay is None:
                raise error
            time.sleep(delay)
