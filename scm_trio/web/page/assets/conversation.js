// The protocol's side of the chat: which answers run, what each message means for them.

import { newId } from "./identity.js";
import { t } from "./texts.js";

export class Conversation {
  #runs = new Set();
  #questions = new Set();
  #controls = new Map();
  #sessionId = null;
  #history = null;
  #unread = null; // the newest message that was shown and that the server was not told is read

  /** `send(message)` returns false without a connection; `view` shows; `onChange()` hears of every start and end. */
  constructor({ send, view, onChange }) {
    this.send = send;
    this.view = view;
    this.onChange = onChange;
  }

  /** Whether it is known where what was said before comes from. */
  get hasHistory() {
    return this.#history !== null;
  }

  get active() {
    return [...this.#runs].filter((run) => !run.done);
  }

  get stopping() {
    return this.active.some((run) => run.stopping);
  }

  /** Ask `text`, with `options` of CHAT_REQUEST such as model and provider. */
  ask(text, options) {
    this.view.addQuestion(text);
    this.#request(text, options);
  }

  stop() {
    for (const run of this.active) {
      run.stopping = true;
      const which = run.messageId ? { messageId: run.messageId } : { requestId: run.requestId };
      this.#control("CHAT_CANCEL", which, run);
    }
    this.onChange();
  }

  /** The connection does not come back by itself: what was not begun is not asked again unasked. */
  abandon() {
    for (const run of this.active) if (run.messageId === null) this.#lose(run, t("refused"), true);
  }

  /** Somebody looks at the page now: tell that what it shows is read. */
  look() {
    if (this.#unread === null || this.#sessionId === null || document.visibilityState !== "visible") return;
    const data = { sessionId: this.#sessionId, messageId: this.#unread };
    if (this.#control("MESSAGE_READ", data)) this.#unread = null;
  }

  clear() {
    this.#unread = this.#sessionId = null;
    this.#runs.clear();
    this.#questions.clear();
    this.#controls.clear();
    this.#history = null;
    this.view.clear();
    this.onChange();
  }

  /** Take one message of the server; false when it is none of this conversation's. */
  handle(message) {
    const data = message.data;
    switch (message.type) {
      case "CONNECT":
        this.#sessionId = message.sessionId ?? data.sessionId;
        return this.#reconnected(data.activeRuns ?? [], this.#sessionId);
      case "CHAT_STREAM_START": return this.#started(data, message.requestId);
      case "CHAT_STREAM_DATA": return this.#extended(data);
      case "CHAT_STREAM_END": return this.#ended(data);
      case "CHAT_MESSAGE": return this.#stored(data);
      case "INFO": return this.#noted(data);
      case "ERROR": return this.#failed(data, message.error ?? {}, message.requestId);
      default: return false;
    }
  }

  /** Show what was said before; what the server goes on to say is to be handled after that. */
  async restore(history) {
    this.#history = history;
    const earlier = await history.earlier().catch(() => []);
    if (history !== this.#history) return;
    if (this.#sessionId === null) this.#unread = earlier.at(-1)?.messageId ?? null;
    this.view.above(() => earlier.forEach((message) => this.#tell(message, true)));
    this.view.offerEarlier(history.isOver ? null : () => this.restore(history));
  }

  #request(text, options) {
    const run = this.#add({ requestId: newId(), text, options });
    this.#ask(run);
    this.onChange();
  }

  #add(run) {
    const known = { messageId: null, requestId: null, rev: 0, next: 0, done: false, stopping: false, ...run };
    known.view = this.view.addAnswer();
    this.#runs.add(known);
    return known;
  }

  #ask(run) {
    const data = { message: run.text, streaming: true, ...run.options };
    this.send({ type: "CHAT_REQUEST", requestId: run.requestId, data });
  }

  #control(type, data, run = null) {
    const requestId = newId();
    this.#controls.set(requestId, { type, run });
    return this.send({ type, requestId, data });
  }

  #resume(run) {
    this.#control("CHAT_RESUME", { messageId: run.messageId, rev: run.rev, fromIndex: 0 }, run);
  }

  #byMessage(messageId) {
    return [...this.#runs].find((run) => run.messageId === messageId);
  }

  // Asking again with the same requestId is safe: the server attaches us to the run that it already has.
  #reconnected(activeRuns, sessionId) {
    this.#controls.clear();
    const open = this.active;
    for (const { messageId, rev, ...other } of activeRuns) {
      if (other.sessionId !== sessionId || this.#byMessage(messageId)) continue;
      // Perhaps the START of a request was lost with the old connection; then its answer comes by that way.
      if (!open.some((run) => run.messageId === null)) this.#resume(this.#add({ messageId, rev }));
    }
    for (const run of open) run.messageId ? this.#resume(run) : this.#ask(run);
    this.look();
    this.onChange();
    return true;
  }

  #started(data, requestId) {
    const asked = data.requestId ?? requestId;
    const run =
      this.#byMessage(data.messageId) ??
      this.active.find((each) => each.messageId === null && each.requestId === asked) ??
      this.#add({ requestId: asked });
    if (data.reset || (data.rev ?? 0) !== run.rev) this.#rewind(run, data.rev ?? 0);
    run.messageId = data.messageId;
    run.model = data.model;
    run.done = false;
    if (data.userMessageId) this.#questions.add(data.userMessageId);
    this.onChange();
    return true;
  }

  #rewind(run, rev = run.rev) {
    run.rev = rev;
    run.next = 0;
    run.view.reset();
  }

  #extended(data) {
    const run = this.#byMessage(data.messageId);
    if (!run || run.done) return true;
    if (data.index === 0 && run.next > 0) this.#rewind(run);
    // A gap or an overlap: only the server knows the text at that place, so it tells everything again.
    if (data.index !== run.next) return this.#resume(run), true;
    run.next = data.nextIndex ?? data.index + 1;
    run.view.append(data.content ?? "", data.reasoning ?? "");
    return true;
  }

  #ended(data) {
    const run = this.#byMessage(data.messageId);
    if (!run || run.done) return true;
    run.done = true;
    run.view.finish({ ...data, model: run.model });
    // An answer that failed before its first word is no message.
    if (data.length > 0) this.#shown(data.messageId);
    this.onChange();
    return true;
  }

  #noted(data) {
    const run = this.#byMessage(data.messageId);
    if (!run || run.done) return false;
    // That somebody is asked again matters only until he answers.
    run.view.note(data.message, data.code === "RETRYING");
    return true;
  }

  #stored(data) {
    // What is said in the user's other sessions is told everywhere.
    if (data.sessionId === this.#sessionId) {
      this.#tell(data);
      this.#shown(data.messageId);
    }
    return true;
  }

  #shown(messageId) {
    this.#unread = messageId;
    this.look();
  }

  #tell(data, quiet = false) {
    if (data.role === "user") {
      if (!this.#questions.has(data.messageId)) this.view.addQuestion(data.content);
      this.#questions.add(data.messageId);
      return;
    }
    const run = this.#byMessage(data.messageId) ?? this.#add({ messageId: data.messageId });
    if (run.done) return;
    run.done = true;
    run.view.reset();
    run.view.append(data.content, data.reasoning ?? "");
    run.view.finish({ model: data.model, finishReason: data.finishReason, usage: data.usage }, quiet);
    this.onChange();
  }

  #failed(text, error, requestId) {
    const control = this.#controls.get(requestId);
    // A cancel that found nothing to cancel crossed the END, and a message that was read may be deleted by now.
    if (control?.type === "CHAT_CANCEL" || control?.type === "MESSAGE_READ") return true;
    const run = control?.run ?? this.active.find((each) =>
      (error.messageId && each.messageId === error.messageId) || (requestId && each.requestId === requestId));
    if (!run) return false;
    // Once an answer has begun, its END is still to come.
    if (error.generationStarted && !control) run.view.fail(text, this.#retry(run, error.retryable));
    else this.#lose(run, control ? t("refused") : text, error.retryable || control);
    return true;
  }

  #lose(run, text, retryable) {
    run.done = true;
    run.view.fail(text, this.#retry(run, retryable));
    run.view.finish(null);
    this.onChange();
  }

  #retry(run, retryable) {
    return run.text && retryable ? () => this.#request(run.text, run.options) : null;
  }
}
