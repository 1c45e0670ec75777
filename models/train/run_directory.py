"""Where runs keep what they have learnt, in files small enough to travel: fp16, one a network.

vae.safetensors checker.safetensors text_encoder.safetensors transformer.safetensors progress.json
"""

import json
import os
import pathlib
import shutil

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

MAX_FILE_BYTES = 16 * 2**20
NETWORKS = ("vae", "checker", "text_encoder", "transformer")
PROGRESS = "progress.json"


class RunDirectory:
    def __init__(self, out, resume=None):
        """Reads from `out`; what is not there yet is copied from `resume` first."""
        self.path = pathlib.Path(out)
        self.path.mkdir(parents=True, exist_ok=True)
        for name in [f"{network}.safetensors" for network in NETWORKS] + [PROGRESS]:
            old = pathlib.Path(resume, name) if resume else None
            if old and old.exists() and not (self.path / name).exists():
                shutil.copyfile(old, self.path / name)

    def file(self, network):
        return self.path / f"{network}.safetensors"

    def has(self, network):
        return self.file(network).exists()

    def load(self, network, module):
        """Fills the module's parameters and buffers; returns the metadata. The names must agree."""
        if not self.has(network):
            raise FileNotFoundError(f"{self.file(network)}: its phase has not run yet")
        stored = load_file(self.file(network))
        missing, unexpected = module.load_state_dict(stored, strict=False)
        tied = set(getattr(module, "_tied_weights_keys", None) or ())
        if unexpected or set(missing) - tied:
            raise ValueError(f"{self.file(network)}: missing {missing}, unexpected {unexpected}")
        with safe_open(self.file(network), "pt") as file:
            return file.metadata() or {}

    def save(self, network, module, **metadata):
        """Stores the module in fp16, replacing the file at once."""
        tied = set(getattr(module, "_tied_weights_keys", None) or ())
        stored = {
            name: tensor.detach().to("cpu", torch.float16 if tensor.is_floating_point() else None)
            for name, tensor in module.state_dict().items()
            if name not in tied
        }
        unfinished = self.path / f"{network}.unfinished"
        stored = {name: tensor.contiguous() for name, tensor in stored.items()}
        save_file(stored, unfinished, {name: str(value) for name, value in metadata.items()})
        size = unfinished.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ValueError(f"{unfinished}: {size} bytes, limit {MAX_FILE_BYTES}")
        unfinished.chmod(0o644)
        os.replace(unfinished, self.file(network))

    def progress(self):
        """What each phase noted, by phase."""
        file = self.path / PROGRESS
        return json.loads(file.read_text()) if file.exists() else {}

    def note(self, phase, **figures):
        """Adds figures of a phase's run to those of earlier runs."""
        figures = {k: round(v, 5) if isinstance(v, float) else v for k, v in figures.items()}
        progress = self.progress()
        progress.setdefault(phase, []).append(figures)
        (self.path / PROGRESS).write_text(json.dumps(progress, indent=1) + "\n")
