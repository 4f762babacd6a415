// Puts the page together: sign in, connect, ask, stop.

import { Conversation } from "./conversation.js";
import { History } from "./history.js";
import {
  claimsOf, forgetToken, isNewSession, newSession, saveToken, savedToken, sessionId, takeTokenFromAddress, useSession,
} from "./identity.js";
import { ChatSocket } from "./socket.js";
import { SUGGESTIONS, label, lang, t, translate } from "./texts.js";
import * as view from "./view.js";

const $ = (id) => document.getElementById(id);
const question = $("question");
const send = $("send");
const banner = $("banner");
const dialog = $("sign-in");

let countdown = 0;
let lastUser = null;
let held = null; // what the server says while the history is being fetched

const socket = new ChatSocket({ address, onState: showState, onMessage: receive });
const conversation = new Conversation({ send: (message) => socket.send(message), view, onChange: showComposer });

// ---- connection

function address() {
  const token = savedToken();
  const url = new URL("scm/websocket/ai/chat", document.baseURI);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  const user = claimsOf(token)?.sub;
  if (user) url.searchParams.set("userId", user);
  url.searchParams.set("sessionId", sessionId());
  url.searchParams.set("lang", lang);
  return { url, token };
}

function headers(token = savedToken()) {
  return { Authorization: `Bearer ${token}`, "Accept-Language": lang };
}

function showState(state) {
  clearInterval(countdown);
  const name = state.name === "rejected" ? "closed" : state.name;
  $("state").dataset.state = name;
  $("state").lastElementChild.textContent = t(`state_${name}`);
  showComposer();
  if (state.name === "open") hideBanner();
  else if (state.name === "rejected") signIn(t("tokenRejected"));
  else if (state.name === "closed") {
    conversation.abandon();
    showBanner(t("closedBy", state), { wrong: true, act: reconnect });
  } else if (state.name === "waiting") {
    showCountdown(state);
    // A browser hides why a handshake was refused; plain HTTP tells whether the token is the reason.
    if (!state.opened) loadModels();
  }
}

function showCountdown(state) {
  const show = () => {
    const seconds = Math.ceil((state.until - Date.now()) / 1000);
    const text = seconds > 0 ? t("lostFor", { seconds }) : t("lost");
    showBanner(state.reason ? `${state.reason} · ${text}` : text, { act: reconnect });
  };
  show();
  countdown = setInterval(show, 1000);
}

function reconnect() {
  hideBanner();
  socket.start();
}

addEventListener("online", () => {
  if ($("state").dataset.state === "waiting") reconnect();
});

document.addEventListener("visibilitychange", () => conversation.look());

async function receive(message) {
  if (held !== null) held.push(message);
  else if (message.type === "CONNECT" && !conversation.hasHistory) await restore(message);
  else show(message);
}

async function restore(connect) {
  const waiting = (held = [connect]);
  showComposer();
  await conversation.restore(new History(connect.sessionId ?? connect.data.sessionId, headers(), isNewSession()));
  if (held !== waiting) return;
  held = null;
  waiting.forEach(show);
  showComposer();
}

/** An empty conversation in a session of its own. */
function startOver() {
  held = null;
  conversation.clear();
  newSession();
}

function show(message) {
  if (conversation.handle(message)) return;
  const data = message.data;
  if (message.type === "ERROR") showBanner(data, { wrong: true });
  else if (message.type === "WARNING") warn(data);
  else if (message.type === "INFO") view.say(data.message);
}

function warn(data) {
  if (data.code === "TOKEN_EXPIRING" && data.token) {
    saveToken(data.token);
    socket.send({ type: "AUTH_REFRESH", data: { token: data.token } });
  } else {
    showBanner(data.message, {});
  }
}

function showBanner(text, { wrong = false, act = null }) {
  const [words, button] = banner.children;
  if (words.textContent !== text) words.textContent = text;
  banner.classList.toggle("wrong", wrong);
  button.hidden = !act;
  button.textContent = t("reconnect");
  button.onclick = act;
  banner.hidden = false;
}

function hideBanner() {
  clearInterval(countdown);
  banner.hidden = true;
}

// ---- sign in

function signIn(error = "") {
  socket.stop();
  forgetToken();
  hideBanner();
  $("sign-out").hidden = true;
  $("state").dataset.state = "offline";
  $("state").lastElementChild.textContent = t("state_offline");
  showComposer();
  $("sign-in-error").textContent = error;
  if (!dialog.open) dialog.showModal();
  $("token").focus();
}

function enter() {
  const user = claimsOf(savedToken())?.sub ?? "";
  // Nobody reads on in another person's chat.
  if (lastUser !== null && user !== lastUser) startOver();
  lastUser = user;
  $("sign-out").hidden = false;
  loadModels();
  socket.start();
  question.focus();
}

// Without a token there is nothing behind the dialog.
dialog.addEventListener("cancel", (event) => event.preventDefault());

dialog.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = $("token").value.trim().replace(/^Bearer\s+/i, "");
  if (!claimsOf(token)) {
    $("sign-in-error").textContent = t("notAToken");
    return;
  }
  $("token").value = "";
  saveToken(token);
  dialog.close();
  enter();
});

$("sign-out").addEventListener("click", () => {
  startOver();
  signIn();
});

async function loadModels() {
  const token = savedToken();
  const answer = await fetch("scm/ai/models", { headers: headers(token) }).catch(() => null);
  if (answer?.status === 401 && savedToken() === token) signIn(t("tokenRejected"));
  if (answer?.ok) showModels(await answer.json());
}

function showModels({ items, aliases }) {
  const select = $("model");
  const chosen = select.value;
  const options = items.flatMap(({ provider, models }) => models.map((model) => [provider, model]));
  select.replaceChildren(new Option(t("modelDefault"), ""));
  for (const { alias } of aliases) select.add(new Option(alias, JSON.stringify({ model: alias })));
  for (const [provider, model] of options) {
    select.add(new Option(`${model} · ${provider}`, JSON.stringify({ provider, model })));
  }
  select.value = chosen;
  if (select.selectedIndex < 0) select.selectedIndex = 0;
  select.hidden = options.length + aliases.length < 2;
}

// ---- composer

const isReady = () => socket.isOpen && conversation.hasHistory && held === null;

function showComposer() {
  const busy = conversation.active.length > 0;
  send.classList.toggle("stops", busy);
  send.disabled = !isReady() || (busy ? conversation.stopping : !question.value.trim());
  label(send, busy ? (conversation.stopping ? "stopping" : "stop") : "send");
  for (const button of $("suggestions").querySelectorAll("button")) button.disabled = !isReady();
}

function ask(text) {
  useSession();
  conversation.ask(text, JSON.parse($("model").value || "{}"));
}

function submit() {
  if (send.disabled) return;
  if (conversation.active.length > 0) return conversation.stop();
  const text = question.value.trim();
  question.value = "";
  grow();
  ask(text);
}

/** The field grows with its text where the style sheet's field-sizing is not known yet. */
function grow() {
  if (CSS.supports("field-sizing", "content")) return;
  question.style.height = "auto";
  question.style.height = `${question.scrollHeight}px`;
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});

question.addEventListener("input", () => {
  grow();
  showComposer();
});

question.addEventListener("keydown", (event) => {
  // Enter also confirms the candidates of a Chinese input method; that one must not send.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  if (conversation.active.length === 0) submit();
});

addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !dialog.open && conversation.active.length > 0 && !conversation.stopping) conversation.stop();
});

$("new-chat").addEventListener("click", () => {
  conversation.stop();
  startOver();
  if (savedToken()) reconnect();
  question.focus();
});

// ---- start

document.documentElement.lang = lang;
translate(document);
for (const text of SUGGESTIONS[lang]) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.addEventListener("click", () => ask(text));
  const item = document.createElement("li");
  item.append(button);
  $("suggestions").append(item);
}

takeTokenFromAddress();
if (savedToken()) enter();
else signIn();
