#!/usr/bin/env python3
"""Makes images with a Patchflow server, with nothing but plain grpcio.

    python3 -m pip install grpcio grpcio-tools googleapis-common-protos
    client/examples/generate.py localhost:50051 "a red star on a blue background" --out star.png

Shows the steps as they are done. An error is printed as the server's reason and the fields that it names; the exit
code is 1 then. UNAVAILABLE, the one code that may be retried without thinking, is retried by a service config.
"""

import argparse
import hashlib
import importlib
import json
import pathlib
import sys
import tempfile

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_tools import protoc

PROTO_ROOT = pathlib.Path(__file__).resolve().parents[2] / "proto"
RETRY = {
    "methodConfig": [
        {
            "name": [{"service": "patchflow.v1.ImageGenerationService"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.5s",
                "maxBackoff": "8s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


def generated_modules():
    """image_generation_pb2 and image_generation_pb2_grpc, made from the .proto; a project would do it when it builds."""
    out = tempfile.mkdtemp(prefix="patchflow-stubs-")
    arguments = ["protoc", f"-I{PROTO_ROOT}", f"--python_out={out}", f"--grpc_python_out={out}"]
    if protoc.main([*arguments, "patchflow/v1/image_generation.proto"]) != 0:
        sys.exit("the API's .proto could not be compiled")
    sys.path.insert(0, out)
    return (importlib.import_module(f"patchflow.v1.image_generation_{kind}") for kind in ("pb2", "pb2_grpc"))


def describe(error: grpc.RpcError) -> str:
    """The status and its details: reason, wrong fields, when to try again."""
    lines = [f"{error.code().name}: {error.details()}"]
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        for detail in status_pb2.Status.FromString(value).details:
            for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
                message = kind()
                if detail.Unpack(message):
                    lines.append(f"  {kind.DESCRIPTOR.name}: {str(message).strip()}")
    return "\n".join(lines)


def receive(stream, out: pathlib.Path) -> list[pathlib.Path]:
    """Writes every image of the stream once its digest was checked; returns the files."""
    files, header, data = [], None, b""
    for message in stream:
        event = message.WhichOneof("event")
        if event == "accepted":
            effective = message.accepted.effective
            print(f"{message.request_id}: {effective.width}x{effective.height}, seed {effective.seed}", file=sys.stderr)
        elif event == "progress":
            progress = message.progress
            print(f"\rstep {progress.step}/{progress.total_steps}", end="", file=sys.stderr)
        elif event == "image_header":
            header, data = message.image_header, b""
        elif event == "image_chunk":
            data += message.image_chunk.data
            if len(data) == header.total_bytes:
                if hashlib.sha256(data).digest() != header.sha256:
                    sys.exit(f"image {header.image_index}: its bytes are not those that the server made")
                number = f"-{header.image_index}" if header.image_index else ""
                files.append(out.with_stem(out.stem + number))
                files[-1].write_bytes(data)
    print(file=sys.stderr)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("server", help="host:port")
    parser.add_argument("prompt")
    parser.add_argument("--negative")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("image.png"))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--count", type=int)
    parser.add_argument("--timeout", type=float, default=300, help="seconds for the whole call")
    arguments = parser.parse_args()

    pb, services = generated_modules()
    request = pb.GenerateImagesRequest(
        prompt=pb.Prompt(text=arguments.prompt, negative_text=arguments.negative),
        image=pb.ImageSpec(count=arguments.count),
        sampling=pb.SamplingParams(
            steps=arguments.steps, guidance_scale=arguments.guidance, seed=arguments.seed
        ),
    )
    options = [("grpc.service_config", json.dumps(RETRY))]
    with grpc.insecure_channel(arguments.server, options=options) as channel:
        stub = services.ImageGenerationServiceStub(channel)
        try:
            files = receive(stub.GenerateImages(request, timeout=arguments.timeout), arguments.out)
        except grpc.RpcError as error:
            sys.exit(describe(error))
    print("\n".join(map(str, files)))


if __name__ == "__main__":
    main()
