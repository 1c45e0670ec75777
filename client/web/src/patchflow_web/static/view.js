// Shows jobs: the chosen one on the stage, all in the queue.

const $ = (id) => document.getElementById(id);
const STAGES = [["queue", "Waiting"], ["text_encode", "Reading the text"], ["denoise", "Drawing"], ["vae_decode", "Decoding"], ["encode_image", "Compressing"]];

export const seconds = (value) => (value < 0.1 ? `${Math.round(1000 * value)} ms` : value < 10 ? `${value.toFixed(2)} s` : value < 120 ? `${value.toFixed(1)} s` : `${Math.round(value / 60)} min`);
export const isOver = (job) => ["done", "failed", "cancelled"].includes(job.state);

export function partDone(job) {
  const { progress, accepted } = job;
  if (job.state === "done") return 1;
  if (!progress || !accepted || !progress.total_steps) return 0;
  const count = accepted.parameters.count;
  return Math.min(1, (progress.images_done + (progress.images_done < count ? progress.step / progress.total_steps : 0)) / count);
}

function waiting(position) {
  return position === 0 ? "Next in the queue" : position === 1 ? "1 request before yours" : `${position} requests before yours`;
}

export function describe(job) {
  if (job.retrying) return `${job.retrying}; trying again …`;
  if (job.state === "sent") return "Sent";
  if (job.state === "queued") return waiting(job.progress?.queue_position ?? job.accepted.queue_position);
  if (job.state === "done") return `Done in ${seconds(job.completed.timings.total ?? 0)}`;
  if (job.state === "failed") return job.error.title;
  if (job.state === "cancelled") return "Cancelled";
  const { step, total_steps: total, images_done: done, attempt } = job.progress;
  const count = job.accepted.parameters.count;
  const which = count > 1 ? `Picture ${Math.min(done + 1, count)} of ${count}, step` : "Step";
  const again = attempt > 1 ? ", begun again after a fault" : "";
  return step < total ? `${which} ${step} of ${total}${again}` : `Finishing${again}`;
}

function remaining(job) {
  if (isOver(job)) return "";
  const eta = job.progress?.eta ?? (job.state === "queued" ? job.accepted?.estimated_wait : null);
  return eta === null || eta === undefined ? "" : `about ${seconds(eta)} left`;
}

function list(target, rows) {
  target.replaceChildren(...rows.flatMap(([name, value, key]) => {
    const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
    if (key) dt.append(Object.assign(document.createElement("span"), { className: `key ${key}` }));
    dt.append(name);
    dd.textContent = value;
    if (key === "") dt.className = dd.className = "sum";
    return [dt, dd];
  }));
}

function showFacts(job) {
  $("facts").hidden = !job?.completed;
  if (!job?.completed) return;
  const { parameters } = job.accepted;
  const image = job.images[job.shown];
  list($("parameters"), [
    ["Size", `${image.width} × ${image.height} px`], ["Seed", image.seed], ["Steps", parameters.steps],
    ["Guidance", Math.round(parameters.guidance * 100) / 100], ["Sampler", parameters.scheduler], ["Model", parameters.model],
    ["Arithmetic", parameters.dtype], ["Layout", parameters.layout],
    ["File", `${parameters.format.toUpperCase()}, ${Math.ceil(image.bytes / 1024)} KiB`], ["Request", job.id],
  ]);
  const { timings } = job.completed;
  const stages = STAGES.map(([id, name], index) => [name, timings[id] ?? 0, `stage-${index + 1}`]);
  $("bar").replaceChildren(...stages.map(([, value, style]) => {
    const part = Object.assign(document.createElement("span"), { className: style });
    part.style.flexGrow = value;
    return part;
  }));
  list($("timings"), [...stages.map(([name, value, style]) => [name, seconds(value), style]), ["Together", seconds(timings.total ?? 0), ""]]);
}

function showAlert(error) {
  if (!error || error.cancelled) return $("alert").replaceChildren();
  const title = Object.assign(document.createElement("strong"), { textContent: error.title });
  const parts = [title];
  if (error.text) parts.push(Object.assign(document.createElement("p"), { textContent: error.text }));
  if (error.fields?.length) {
    const items = document.createElement("ul");
    items.append(...error.fields.map((each) => Object.assign(document.createElement("li"), { textContent: `${each.field}: ${each.text}` })));
    parts.push(items);
  }
  if (error.retry_after) parts.push(Object.assign(document.createElement("p"), { textContent: `Try again in ${seconds(error.retry_after)}.` }));
  $("alert").replaceChildren(...parts);
}

function showThumbs(job, choose) {
  $("thumbs").hidden = !job || job.images.length < 2;
  if (!job) return $("thumbs").replaceChildren();
  $("thumbs").replaceChildren(...job.images.map((image, index) => {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.setAttribute("aria-pressed", index === job.shown);
    button.append(Object.assign(new Image(), { src: image.url, alt: `Picture ${index + 1}, seed ${image.seed}` }));
    button.addEventListener("click", () => choose(index));
    return button;
  }));
}

function showPicture(job) {
  const image = job?.images[job.shown];
  const source = image?.url ?? job?.preview ?? "";
  const over = !job || isOver(job);
  $("canvas").dataset.state = !job ? "empty" : over ? "over" : job.state === "running" ? "running" : "waiting";
  $("canvas").hidden = Boolean(job) && over && !source;
  $("canvas").toggleAttribute("data-preview", Boolean(source) && !over);
  $("picture").hidden = !source;
  if (source && $("picture").src !== source) $("picture").src = source;
  $("picture").alt = job ? (image ? job.prompt : `Preview of: ${job.prompt}`) : "";
  $("ring").hidden = over;
  const part = job ? partDone(job) : 0;
  $("ring").style.setProperty("--part", part);
  $("ring-text").textContent = `${Math.round(100 * part)} %`;
  $("save").hidden = !image;
  if (image) Object.assign($("save"), { href: image.url, download: image.file });
}

export function showStage(job, chooseImage) {
  $("stage-title").textContent = job ? job.prompt : "Nothing drawn yet";
  $("cancel").hidden = !job || isOver(job);
  $("again").hidden = !job?.accepted;
  showAlert(job?.error);
  showPicture(job);
  $("meter").hidden = !job || (isOver(job) && job.state !== "cancelled");
  if (job) {
    $("meter-text").textContent = describe(job);
    $("meter-time").textContent = remaining(job);
    $("progress").value = partDone(job);
  }
  showThumbs(job, chooseImage);
  showFacts(job);
}

// One row of the queue; changed in place, so that the keyboard's focus stays.
export function makeRow(job, choose) {
  const item = document.createElement("li");
  const button = Object.assign(document.createElement("button"), { type: "button" });
  const thumb = Object.assign(new Image(), { className: "thumb", alt: "", src: "/static/icon.svg" });
  const what = Object.assign(document.createElement("span"), { className: "what", textContent: job.prompt });
  const state = Object.assign(document.createElement("span"), { className: "state" });
  button.append(thumb, what, state);
  button.addEventListener("click", choose);
  item.append(button);
  return { item, button, thumb, state };
}

export function showRow(job, chosen) {
  const { button, thumb, state } = job.row;
  button.dataset.state = job.state;
  button.setAttribute("aria-current", chosen);
  state.textContent = describe(job);
  const source = job.images[0]?.url ?? job.preview;
  if (source && thumb.src !== source) thumb.src = source;
}

export function showCount(jobs) {
  const open = jobs.filter((job) => !isOver(job)).length;
  $("queue-count").textContent = open ? `${open} open` : "";
  $("queue-empty").hidden = jobs.length > 0;
}

export function showServer(state, text) {
  $("server").dataset.state = state;
  $("server-text").textContent = text;
}

// For screen readers: the outcome at once, the way there in quarters.
export function announce(job) {
  const quarter = Math.floor(4 * partDone(job));
  const key = `${job.state}${job.state === "running" ? quarter : job.progress?.queue_position}`;
  if (key === job.announced) return;
  job.announced = key;
  const way = job.state === "running" ? `${25 * quarter} percent` : describe(job);
  $("announce").textContent = `${job.prompt}: ${way}`;
}
