"""Feature networks: from images to what the scores are computed on.

A network takes images uint8 [N, 3, H, W] of 0..255 and gives up to three outputs:

    pool     [N, D]        for FID, precision and recall
    spatial  [N, 7, H, W]  for sFID
    logits   [N, K]        for the inception score

A TorchScript file returns them as a dict of these names, as a tuple in this order, or pool alone; an
ONNX file names its outputs so. What is missing leaves out the scores that need it.
"""

import pathlib

import numpy as np

from .errors import InputError

OUTPUTS = ("pool", "spatial", "logits")
RANKS = dict(pool=2, spatial=4, logits=2)
SPATIAL_CHANNELS = 7
SPATIAL_SIDE = 4
CHECKER = pathlib.Path(__file__).resolve().parents[2] / "models" / "checker" / "checker.safetensors"


class CheckerNetwork:
    """The network that judges the bundled model's images, with 128 features.

    pool: means of the last features before the cells; spatial: the first 7 of them on 4 x 4; logits:
    how much of each of the 70 things is in the image, in whatever cell.
    """

    def __init__(self, device: str = "cpu", path: pathlib.Path = CHECKER):
        from models.train.checker import load_checker

        self.name, self.device = "checker", device
        self.checker = load_checker(path, device=device)
        self._seen = None
        self.checker.features.register_forward_hook(self._keep)

    def _keep(self, module, inputs, output):
        self._seen = output

    def __call__(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        import torch
        import torch.nn.functional as F

        from models.train.checker import NO_THING

        with torch.inference_mode():
            answers = self.checker(centred(batch, self.device))
            things = answers.thing.softmax(-1)[..., :NO_THING].sum(1)
            outputs = dict(
                pool=self._seen.mean((2, 3)),
                spatial=F.adaptive_avg_pool2d(self._seen[:, :SPATIAL_CHANNELS], SPATIAL_SIDE),
                logits=things.clamp_min(1e-12).log(),
            )
        return {name: output.float().cpu().numpy() for name, output in outputs.items()}


class ScriptNetwork:
    """A TorchScript file."""

    def __init__(self, path: pathlib.Path, device: str = "cpu"):
        import torch

        self.name, self.path, self.device = path.name, path, device
        try:
            self._module = torch.jit.load(path, map_location=device).eval()
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"{path}: can't be loaded as TorchScript: {reason}") from error

    def __call__(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        import torch

        images = torch.from_numpy(batch).to(self.device).permute(0, 3, 1, 2).contiguous()
        with torch.inference_mode():
            outputs = self._module(images)
        if isinstance(outputs, torch.Tensor):
            outputs = (outputs,)
        if not isinstance(outputs, dict):
            outputs = dict(zip(OUTPUTS, outputs))
        return checked(
            {
                name: output.float().cpu().numpy()
                for name, output in outputs.items()
                if output is not None
            },
            len(batch),
            self.path,
        )


class OnnxNetwork:
    """An ONNX file with one input; run on CPUs, or on the GPU where onnxruntime has it."""

    def __init__(self, path: pathlib.Path):
        import onnxruntime

        self.name, self.path = path.name, path
        try:
            self._session = onnxruntime.InferenceSession(
                path, providers=onnxruntime.get_available_providers()
            )
        except Exception as error:  # onnxruntime's own classes, which it does not publish.
            raise InputError(f"{path}: can't be loaded as ONNX: {error}") from error
        self._names = [output.name for output in self._session.get_outputs()]
        self._input = self._session.get_inputs()[0].name

    def __call__(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        images = np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
        values = self._session.run(None, {self._input: images})
        return checked(dict(zip(self._names, values)), len(batch), self.path)


def checked(outputs: dict, count: int, path: pathlib.Path) -> dict[str, np.ndarray]:
    """The outputs that scores know, if their shapes are right."""
    known = {name: outputs[name] for name in OUTPUTS if name in outputs}
    if not known:
        raise InputError(f"{path}: gives {', '.join(outputs) or 'nothing'}, none of {OUTPUTS}")
    for name, value in known.items():
        wrong = value.ndim != RANKS[name] or len(value) != count
        if wrong or (name == "spatial" and value.shape[1] != SPATIAL_CHANNELS):
            wanted = dict(pool="[N, D]", spatial="[N, 7, H, W]", logits="[N, K]")[name]
            raise InputError(f"{path}: {name} is {list(value.shape)} for {count} images, not {wanted}")
    return known


def centred(batch: np.ndarray, device: str):
    """uint8 [N, H, W, 3] as a tensor float32 [N, 3, H, W] in -1..1."""
    import torch

    return torch.from_numpy(batch).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def open_network(path: pathlib.Path | None, device: str = "cpu"):
    """The checker network if there is no path; ONNX by the name's end, else TorchScript."""
    if path is None:
        return CheckerNetwork(device)
    if not path.is_file():
        raise InputError(f"{path}: is no file")
    return OnnxNetwork(path) if path.suffix == ".onnx" else ScriptNetwork(path, device)
