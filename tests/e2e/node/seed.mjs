// Runs the samples of the original document in Node: node seed.mjs FOLDER, with SCM_PORT and SCM_JWT in the environment.
// The samples say localhost:8088; only that part of the address is changed, outside of their text.

import { readFile } from "node:fs/promises";
import path from "node:path";
import { pathToFileURL } from "node:url";
import vm from "node:vm";
import WebSocket from "ws";

const { SCM_PORT: port, SCM_JWT: token } = process.env;
const folder = process.argv[2];

globalThis.WebSocket = class extends WebSocket {
  constructor(url, protocols) {
    super(url.replace("//localhost:8088/", `//127.0.0.1:${port}/`), protocols);
  }
};

async function until(what, condition) {
  const deadline = Date.now() + 30_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

async function plainSamples() {
  const content = { textContent: "" };
  const log = [];
  globalThis.jwtToken = token;
  globalThis.document = { getElementById: (id) => (id === "chat-content" ? content : null) };
  globalThis.handleSystemMessage = (message) => log.push(["welcome", message.data.message]);
  const { log: print } = console;
  console.log = (...words) => log.push(words);
  for (const name of ["connect.js", "stream.js", "normal.js"]) {
    vm.runInThisContext(await readFile(path.join(folder, name), "utf8"), { filename: name });
  }
  const said = (word) => log.find(([first]) => first === word);
  const received = (type) => log.find(([first, message]) => first === "收到消息:" && message.type === type)?.[1];
  await until("the heartbeat's answer", () => said("心跳响应"));
  vm.runInThisContext("sendStreamingChatRequest()");
  await until("the end of the stream", () => said("完整内容:"));
  const streamed = said("完整内容:")[1];
  vm.runInThisContext("sendNormalChatRequest()");
  await until("the whole answer", () => received("CHAT_RESPONSE"));
  const protocol = vm.runInThisContext("websocket.protocol");
  vm.runInThisContext("websocket.close()");
  await until("the close", () => said("WebSocket连接已关闭:"));
  console.log = print;
  return {
    protocol,
    welcome: said("welcome")[1],
    streamed,
    shown: content.textContent,
    whole: received("CHAT_RESPONSE").data.content,
    closed: said("WebSocket连接已关闭:")[1],
  };
}

async function vueSample() {
  const component = (await import(pathToFileURL(path.join(folder, "chat.mjs")))).default;
  const errors = [];
  const page = {
    ...component.data(),
    $store: { getters: { token } },
    $set: (object, key, value) => (object[key] = value),
    $message: { error: (text) => errors.push(text) },
    $nextTick: (action) => queueMicrotask(action),
    $refs: { messages: { scrollTop: 0, scrollHeight: 42 } },
  };
  for (const [name, method] of Object.entries(component.methods)) page[name] = method.bind(page);
  component.mounted.call(page);
  await until("the connection", () => page.websocket.readyState === WebSocket.OPEN);
  page.currentMessage = "什么是库存周转率？";
  page.sendMessage();
  await until("the answer", () => page.messages[0].answer && !page.isStreaming);
  page.currentMessage = "fail in Vue";
  page.sendMessage();
  await until("the error", () => errors.length > 0);
  component.beforeDestroy.call(page);
  await until("the close", () => page.websocket.readyState === WebSocket.CLOSED);
  return { question: page.messages[0].question, answer: page.messages[0].answer, errors, scrolled: page.$refs.messages.scrollTop };
}

console.log = () => {};
const results = { plain: await plainSamples() };
console.log = () => {};
results.vue = await vueSample();
process.stdout.write(`${JSON.stringify(results)}\n`);
