// What is seen: questions, answers, the scroll position. Texts enter the page as text nodes only.

import { label, t, translate } from "./texts.js";

const NEAR_END_PX = 80;

const scroll = document.getElementById("scroll");
const messages = document.getElementById("messages");
const welcome = document.getElementById("welcome");
const toEnd = document.getElementById("to-end");
const spoken = document.getElementById("spoken");

const earlier = document.getElementById("earlier");

let following = true;
let planned = false;
let place = null; // new messages come before this one; null: at the end

scroll.addEventListener("scroll", () => {
  following = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < NEAR_END_PX;
  toEnd.hidden = following;
});

toEnd.addEventListener("click", () => {
  following = true;
  follow();
});

// A banner, or a phone's keyboard, takes room from below.
new ResizeObserver(() => follow()).observe(scroll);

/** Keep the newest text in sight, once per painted frame, unless the reader has scrolled away. */
function follow() {
  if (!following || planned) return;
  planned = true;
  requestAnimationFrame(() => {
    planned = false;
    scroll.scrollTop = scroll.scrollHeight;
  });
}

function fromTemplate(name) {
  const node = document.getElementById(name).content.firstElementChild.cloneNode(true);
  translate(node);
  return node;
}

/** Say something to a screen reader without showing it. */
export function say(text) {
  spoken.textContent = text;
}

export function clear() {
  messages.replaceChildren();
  welcome.hidden = false;
  toEnd.hidden = earlier.hidden = true;
  following = true;
}

/** What `show` adds stands above everything that is there, which stays where the reader sees it. */
export function above(show) {
  const [height, top] = [scroll.scrollHeight, scroll.scrollTop];
  place = messages.firstChild;
  const isFirst = place === null;
  messages.ariaBusy = "true"; // nobody wants all of it read out
  show();
  messages.ariaBusy = "false";
  place = null;
  if (!isFirst) scroll.scrollTop = top + scroll.scrollHeight - height;
}

/** Offer to show what was said before the first message, by `act`; null: nothing was. */
export function offerEarlier(act) {
  earlier.hidden = act === null;
  earlier.disabled = false;
  earlier.onclick = () => {
    earlier.disabled = true;
    act();
  };
}

export function addQuestion(text) {
  const node = fromTemplate("question-template");
  node.querySelector(".text").textContent = text;
  add(node);
}

export function addAnswer() {
  const node = fromTemplate("answer-template");
  add(node);
  return new AnswerView(node);
}

function add(node) {
  welcome.hidden = true;
  messages.insertBefore(node, place);
  if (place !== null) return;
  following = true;
  follow();
}

class AnswerView {
  constructor(node) {
    this.node = node;
    this.text = node.querySelector(".text").appendChild(new Text());
    this.reasoning = node.querySelector(".reasoning");
    this.thoughts = this.reasoning.querySelector(".thoughts").appendChild(new Text());
    this.noted = node.querySelector(".note");
    this.failure = node.querySelector(".failure");
    this.meta = node.querySelector(".meta");
    this.copy = node.querySelector(".copy");
    this.copy.addEventListener("click", () => this.#copy());
  }

  /** Forget what was shown: the answer is told anew. */
  reset() {
    this.text.data = this.thoughts.data = "";
    this.reasoning.hidden = this.failure.hidden = this.meta.hidden = true;
    this.node.className = "answer waiting";
    this.node.ariaBusy = "true";
  }

  /** Show what is to be known about the answer; `passing`: until its text begins. */
  note(text, passing) {
    this.noted.textContent = text;
    this.noted.hidden = false;
    this.passing = passing;
    say(text);
    follow();
  }

  append(text, reasoning) {
    if (reasoning) {
      this.thoughts.appendData(reasoning);
      this.reasoning.hidden = false;
    }
    if (text) {
      this.text.appendData(text);
      this.node.className = "answer running";
      if (this.passing) this.noted.hidden = true;
      this.#thoughtsAre("thought");
    }
    follow();
  }

  fail(text, retry) {
    this.failure.hidden = false;
    this.failure.querySelector("span").textContent = text;
    const button = this.failure.querySelector("button");
    button.hidden = !retry;
    button.onclick = () => {
      button.hidden = true;
      retry();
    };
    this.node.classList.remove("waiting");
    follow();
  }

  /** The answer is over; `end` is the data of its END, or null when there was none. `quiet`: it has been for long. */
  finish(end, quiet = false) {
    this.node.className = "answer";
    this.node.ariaBusy = "false";
    this.#thoughtsAre("thought");
    if (!end) return;
    // Vendors that filter behind the stream ask for what was shown already to be taken back.
    if (end.finishReason === "content_filter") this.#retract();
    this.meta.hidden = false;
    this.meta.querySelector("span").textContent = summary(end);
    this.copy.hidden = !this.text.data || !navigator.clipboard;
    if (!quiet) say(t(end.finishReason === "completed" ? "finished" : end.finishReason));
    follow();
  }

  #retract() {
    this.text.data = this.thoughts.data = "";
    this.reasoning.hidden = true;
    if (this.failure.hidden) this.fail(t("retracted"), null);
  }

  #thoughtsAre(key) {
    this.reasoning.querySelector("summary").textContent = t(key);
  }

  async #copy() {
    await navigator.clipboard.writeText(this.text.data);
    label(this.copy, "copied");
    say(t("copied"));
  }
}

function summary({ finishReason, totalTokens, duration, model, usage }) {
  const parts = [];
  if (model) parts.push(model);
  const tokens = totalTokens ?? (usage ? usage.promptTokens + usage.completionTokens : 0);
  if (tokens) parts.push(t(usage?.source === "estimated" ? "tokensAbout" : "tokens", { n: tokens }));
  if (duration) parts.push(t("seconds", { n: (duration / 1000).toFixed(duration < 9950 ? 1 : 0) }));
  if (finishReason && finishReason !== "completed") parts.push(t(finishReason));
  return parts.join(" · ");
}
