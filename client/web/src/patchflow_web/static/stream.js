// Streams of server-sent events, over fetch so that they may begin with a POST.

// Calls take(name, data) for each event. Ends when the stream does; throws if it breaks.
export async function followEvents(url, options, take) {
  const response = await fetch(url, options);
  if (!(response.headers.get("content-type") || "").startsWith("text/event-stream")) {
    const said = await response.json().catch(() => ({}));
    take("error", said.title ? said : { title: "The server of this page gave no answer", text: `HTTP ${response.status}`, fields: [] });
    return;
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) dispatch(part, take);
  }
}

function dispatch(part, take) {
  let name = "message";
  let data = "";
  for (const line of part.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    if (line.startsWith("data: ")) data += line.slice(6);
  }
  if (data) take(name, JSON.parse(data));
}

export function post(body) {
  return { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
}
