"""Trajectories of diffusers' schedulers over a fixed linear model, for tests/engine/sampler_test.cc.

Writes samplers/cases.json (what was run) and samplers/trajectories.safetensors (per case the timesteps, and x before the
first step and after every step). Made with diffusers 0.35.2 and torch 2.11.0 on a CPU; run it again after changing it:
    python3 tests/golden/samplers.py
"""

import json
import pathlib

import diffusers
import torch
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent / "samplers"
CLASSES = {
    "dpm-solver++": diffusers.DPMSolverMultistepScheduler,
    "ddim": diffusers.DDIMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
}
NOISE = torch.tensor([[[0.7, -1.3], [0.2, 1.9]]])
DRIFT = torch.tensor([[[0.05, -0.02], [0.03, 0.01]]])

PIXART = {
    "_class_name": "DPMSolverMultistepScheduler",
    "algorithm_type": "dpmsolver++",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "euler_at_final": False,
    "final_sigmas_type": "zero",
    "lambda_min_clipped": -float("inf"),
    "lower_order_final": True,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "solver_order": 2,
    "solver_type": "midpoint",
    "steps_offset": 0,
    "thresholding": False,
    "timestep_spacing": "linspace",
    "trained_betas": None,
    "use_karras_sigmas": False,
    "variance_type": None,
}
NO_SPACING = {key: value for key, value in PIXART.items() if key != "timestep_spacing"}
SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def cases():
    for sampler in CLASSES:
        for steps in (1, 2, 14, 15, 20, 50, 999):
            yield sampler, PIXART, steps
        for steps in (1, 3, 20):
            yield sampler, NO_SPACING, steps
            yield sampler, PIXART | {"timestep_spacing": "leading", "steps_offset": 1}, steps
            yield sampler, PIXART | {"timestep_spacing": "trailing"}, steps
        yield sampler, PIXART | SCALED | {"timestep_spacing": "leading"}, 20
        yield sampler, PIXART | SCALED | {"num_train_timesteps": 500}, 7
    for changes in (
        {"final_sigmas_type": "sigma_min"},
        {"final_sigmas_type": "sigma_min", "lower_order_final": False},
        {"final_sigmas_type": "sigma_min", "euler_at_final": True},
        {"solver_order": 1},
        {"lower_order_final": False},
    ):
        for steps in (2, 14, 15):
            yield "dpm-solver++", PIXART | changes, steps
    yield "euler", PIXART | {"final_sigmas_type": "sigma_min"}, 10
    yield "ddim", PIXART | {"set_alpha_to_one": False}, 10
    ddim = {"_class_name": "DDIMScheduler", "clip_sample": False, "steps_offset": 1, "set_alpha_to_one": False}
    yield "ddim", ddim, 20
    yield "dpm-solver++", ddim, 20


def model(x, t):
    return x * (0.5 + 0.5 * float(t) / 1000) + DRIFT


def trajectory(sampler, config, steps):
    changes = {"clip_sample": False} if sampler == "ddim" else {}
    own = getattr(diffusers, config["_class_name"]).from_config(config)
    scheduler = CLASSES[sampler].from_config(own.config, **changes)
    scheduler.set_timesteps(steps)
    x = NOISE * scheduler.init_noise_sigma
    xs = [x]
    for t in scheduler.timesteps:
        eps = model(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(eps, t, x, return_dict=False)[0]
        xs.append(x)
    return scheduler.timesteps.double(), torch.stack(xs).float()


def main():
    OUT.mkdir(exist_ok=True)
    described, tensors = [], {}
    for number, (sampler, config, steps) in enumerate(cases()):
        described.append({"sampler": sampler, "steps": steps, "config": config})
        timesteps, xs = trajectory(sampler, config, steps)
        tensors[f"{number}.timesteps"] = timesteps
        tensors[f"{number}.x"] = xs.contiguous()
        assert xs.isfinite().all(), (sampler, config, steps)
    lines = ",\n".join(json.dumps(case) for case in described)
    (OUT / "cases.json").write_text(f"[\n{lines}\n]\n")
    save_file(tensors, OUT / "trajectories.safetensors")


if __name__ == "__main__":
    main()
