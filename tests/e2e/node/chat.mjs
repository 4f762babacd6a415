// A conversation through the npm package "ws": node chat.mjs URL TOKEN. Prints every message as a line of JSON.

import WebSocket from "ws";

const [url, token] = process.argv.slice(2);
const websocket = new WebSocket(url, ["Bearer", token]);
const say = (event, detail) => process.stdout.write(`${JSON.stringify({ event, detail })}\n`);
const ask = (requestId, message) =>
  websocket.send(JSON.stringify({ type: "CHAT_REQUEST", requestId, data: { message, model: "gpt-4" } }));

let cancelled = false;

websocket.on("open", () => {
  say("open", websocket.protocol);
  websocket.ping();
});
websocket.on("pong", () => {
  say("pong");
  ask("node-1", "node asks");
});
websocket.on("message", (data, isBinary) => {
  const message = JSON.parse(data.toString());
  say(isBinary ? "binary" : "message", message);
  if (message.type === "CHAT_STREAM_END" && message.requestId === "node-1") ask("node-2", "hold node");
  if (message.type === "CHAT_STREAM_DATA" && message.requestId === "node-2" && !cancelled) {
    cancelled = true;
    websocket.send(JSON.stringify({ type: "CHAT_CANCEL", data: { requestId: "node-2" } }));
  }
  if (message.type === "CHAT_STREAM_END" && message.requestId === "node-2") {
    websocket.send(JSON.stringify({ type: "DISCONNECT" }));
  }
});
websocket.on("error", (error) => say("error", error.message));
websocket.on("close", (code) => say("close", code));
