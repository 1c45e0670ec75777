// The page: what is asked for becomes a job, whose events change it.

import { fillForm, setModels, showFieldErrors, wireForm } from "/static/form.js";
import { followEvents, post } from "/static/stream.js";
import { announce, isOver, makeRow, showCount, showRow, showServer, showStage } from "/static/view.js";

const $ = (id) => document.getElementById(id);
const KEPT = "patchflow.kept"; // Jobs that go on without the page, by request id.
const MODELS_EVERY_MS = 10000;
const jobs = [];
let chosen = null;

function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const kept = () => { try { return JSON.parse(localStorage.getItem(KEPT)) || {}; } catch { return {}; } };
function keep(id, what) {
  const all = kept();
  if (what) all[id] = what;
  else delete all[id];
  try { localStorage.setItem(KEPT, JSON.stringify(all)); } catch { /* Private windows may have no store. */ }
}

function render(job) {
  showRow(job, job === chosen);
  showCount(jobs);
  if (job === chosen) showStage(job, (index) => { job.shown = index; render(job); });
}

function choose(job) {
  chosen = job;
  jobs.forEach((each) => showRow(each, each === chosen));
  render(job);
}

const changes = {
  accepted: (job, data) => { job.accepted = data; job.state = "queued"; },
  progress: (job, data) => { job.progress = data; job.state = data.state; },
  preview: (job, data) => { job.preview = data.url; },
  image: (job, data) => { job.images.push(data); },
  completed: (job, data) => { job.completed = data; job.state = "done"; },
  retrying: (job, data) => { job.retrying = data.title; },
  error: (job, data) => {
    job.error = data;
    job.state = data.cancelled ? "cancelled" : "failed";
    // What the form says beside its fields is not said again.
    if (job === chosen && data.fields.length && showFieldErrors(data.fields) === data.fields.length) {
      Object.assign(data, { fields: [], text: "What is wrong is said beside each setting." });
    }
  },
};

function take(job, name, data) {
  if (name !== "retrying") job.retrying = null;
  changes[name]?.(job, data);
  if (isOver(job)) keep(job.id, null);
  render(job);
  announce(job);
}

async function run(job, url, options) {
  try {
    await followEvents(url, options, (name, data) => take(job, name, data));
  } catch (error) {
    if (isOver(job)) return;
    take(job, "error", { title: "The connection to this page's server broke", text: job.keep ? "The picture is still being drawn. Load the page again to see it." : "", fields: [] });
    if (job.keep) keep(job.id, job.prompt);
    return;
  }
  if (!isOver(job)) take(job, "error", { title: "The server of this page stopped in the middle", text: "", fields: [] });
}

function begin(id, prompt, more) {
  const job = { id, prompt: prompt.trim() || "(no words)", state: "sent", images: [], shown: 0, ...more };
  job.row = makeRow(job, () => choose(job));
  jobs.push(job);
  $("jobs").prepend(job.row.item);
  choose(job);
  return job;
}

function draw(body) {
  if (!body) return;
  const id = newId();
  const job = begin(id, body.prompt, { negative: body.negative, keep: body.keep });
  if (body.keep) keep(id, job.prompt);
  run(job, "/api/generations", post({ ...body, request_id: id }));
}

async function cancel() {
  if (!chosen || isOver(chosen)) return;
  const job = chosen;
  $("cancel").disabled = true;
  try {
    await fetch(`/api/generations/${job.id}/cancel`, post({}));
  } catch { /* The stream says how it ended. */ }
  $("cancel").disabled = false;
}

async function askModels() {
  try {
    const response = await fetch("/api/models");
    const said = await response.json();
    if (!response.ok) return showServer("away", said.title);
    setModels(said.models);
    const ready = said.models.filter((each) => each.ready);
    const one = ready[0];
    if (!one) return showServer("away", "The model is being loaded");
    showServer("ready", ready.length > 1 ? `${ready.length} models ready` : `${one.name} · ${one.device} · ${one.dtype} · ${one.layouts.join(" | ")}`);
  } catch {
    showServer("away", "This page's server can't be reached");
  }
}

wireForm(draw);
$("cancel").addEventListener("click", cancel);
$("again").addEventListener("click", () => {
  const { parameters } = chosen.accepted;
  fillForm(chosen.prompt, chosen.negative, { ...parameters, count: 1, seed: chosen.images[chosen.shown]?.seed ?? parameters.seed });
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); $("form").requestSubmit(); }
  if (event.key === "Escape") cancel();
});
for (const [id, prompt] of Object.entries(kept())) {
  run(begin(id, prompt, { keep: true }), `/api/generations/${id}`, {});
}
askModels();
setInterval(askModels, MODELS_EVERY_MS);
