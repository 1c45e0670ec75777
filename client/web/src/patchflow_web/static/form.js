// The form: what may be asked for, what is asked for, and what is wrong with it.

const $ = (id) => document.getElementById(id);
const NUMBERS = ["width", "height", "steps", "guidance", "seed", "count"];
const FIELDS = ["prompt", "negative", "scheduler", "format", "model", ...NUMBERS];
let models = [];

const model = () => models.find((each) => each.name === $("model").value) || models[0];

// Fills choices and bounds from what the server says of its models.
export function setModels(found) {
  const first = models.length === 0;
  const chosen = $("model").value;
  models = found;
  $("model").replaceChildren(...models.map((each) => new Option(each.name, each.name, false, each.name === chosen)));
  $("model-field").hidden = models.length < 2;
  if (first && models.length) takeDefaults();
}

function takeDefaults() {
  const { defaults, limits, schedulers } = model();
  $("width").value = defaults.width;
  $("height").value = defaults.height;
  for (const side of ["width", "height"]) {
    Object.assign($(side), { min: limits.min_size, max: limits.max_size, step: limits.size_multiple });
  }
  bounds("steps", 1, Math.min(limits.max_steps, Math.max(50, 2 * defaults.steps)), defaults.steps);
  bounds("guidance", 1, Math.min(limits.max_guidance, 15), Math.round(defaults.guidance * 10) / 10);
  Object.assign($("count"), { min: 1, max: limits.max_count, value: 1 });
  $("scheduler").replaceChildren(...schedulers.map((name) => new Option(name, name, name === defaults.scheduler, name === defaults.scheduler)));
}

function bounds(id, min, max, value) {
  Object.assign($(`${id}-range`), { min, max, value });
  $(id).value = value;
}

function takeShape(shape) {
  if (!models.length) return;
  const { defaults, limits } = model();
  const multiple = limits.size_multiple;
  const round = (value) => Math.max(limits.min_size, Math.round(value / multiple) * multiple);
  const [width, height] = { square: [1, 1], landscape: [1, 2 / 3], portrait: [2 / 3, 1] }[shape];
  $("width").value = round(defaults.width * width);
  $("height").value = round(defaults.height * height);
}

function showShape() {
  const [width, height] = [Number($("width").value), Number($("height").value)];
  const shape = width === height ? "square" : width > height ? "landscape" : "portrait";
  document.querySelector(`[name="shape"][value="${shape}"]`).checked = true;
}

export function wireForm(submit) {
  for (const id of ["steps", "guidance"]) {
    $(`${id}-range`).addEventListener("input", () => ($(id).value = $(`${id}-range`).value));
    $(id).addEventListener("input", () => ($(`${id}-range`).value = $(id).value));
  }
  for (const radio of document.getElementsByName("shape")) radio.addEventListener("change", () => takeShape(radio.value));
  for (const id of ["width", "height"]) $(id).addEventListener("input", showShape);
  $("model").addEventListener("change", takeDefaults);
  $("dice").addEventListener("click", () => { $("seed").value = ""; $("seed").focus(); });
  $("form").addEventListener("submit", (event) => { event.preventDefault(); submit(read()); });
}

// The body of POST /api/generations, or null where a number can't be read, which is then said.
function read() {
  showFieldErrors([]);
  const body = { prompt: $("prompt").value, format: $("format").value, keep: $("keep").checked };
  const wrong = [];
  for (const id of NUMBERS) {
    if ($(id).validity.badInput) wrong.push({ field: id, text: "This is not a number." });
    else if ($(id).value !== "") body[id] = Number($(id).value);
    if (id !== "guidance" && body[id] !== undefined && !Number.isSafeInteger(body[id])) wrong.push({ field: id, text: "This is not a whole number." });
  }
  if ($("negative").value) body.negative = $("negative").value;
  if ($("scheduler").value) body.scheduler = $("scheduler").value;
  if (models.length) body.model = model().name;
  if (!body.prompt.trim()) wrong.push({ field: "prompt", text: "Say in a few words what to draw." });
  return showFieldErrors(wrong) ? null : body;
}

// Says what is wrong beside each field and goes to the first. Returns how many fields the form has of them.
export function showFieldErrors(errors) {
  let first = null;
  for (const id of FIELDS) {
    const text = errors.filter((each) => each.field === id).map((each) => each.text).join(" ");
    $(`${id}-error`).textContent = text;
    if (text) $(id).setAttribute("aria-invalid", "true");
    else $(id).removeAttribute("aria-invalid");
    if (text && !first) first = $(id);
  }
  first?.closest("details")?.setAttribute("open", "");
  first?.focus();
  return errors.filter((each) => FIELDS.includes(each.field)).length;
}

// Settings of a picture, as the server used them.
export function fillForm(prompt, negative, parameters) {
  $("prompt").value = prompt;
  $("negative").value = negative || "";
  for (const id of [...NUMBERS, "scheduler", "format"]) $(id).value = parameters[id];
  $("guidance").value = Math.round(parameters.guidance * 100) / 100;
  for (const id of ["steps", "guidance"]) $(`${id}-range`).value = $(id).value;
  showShape();
  showFieldErrors([]);
  $("prompt").focus();
}
