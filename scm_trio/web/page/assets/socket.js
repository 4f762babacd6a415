// One WebSocket that comes back by itself where the protocol says so.

const RECONNECTABLE = new Set([1001, 1005, 1006, 1011, 1012, 1013, 4408, 4410]);
const UNAUTHORIZED = 4401;
const BACKOFF_MS = 1000;
const BACKOFF_MAX_MS = 30_000;

/**
 * States, given to `onState` as {name, …}:
 *   connecting · open · waiting {until, code, reason, opened} · closed {code, reason} · rejected (the token is refused)
 */
export class ChatSocket {
  #socket = null;
  #attempt = 0;
  #timer = 0;
  #heartbeat = 0;
  #heardAt = 0;
  #farewell = null;

  /** `address()` returns {url, token} for each attempt. */
  constructor({ address, onState, onMessage }) {
    this.address = address;
    this.onState = onState;
    this.onMessage = onMessage;
  }

  get isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  /** Connect now, dropping whatever there is. */
  start() {
    this.stop();
    const { url, token } = this.address();
    this.#farewell = null;
    this.onState({ name: "connecting" });
    const socket = new WebSocket(url, ["Bearer", token]);
    this.#socket = socket;
    let opened = false;
    socket.onopen = () => {
      opened = true;
      this.#heardAt = Date.now();
      this.onState({ name: "open" });
    };
    socket.onmessage = (event) => this.#receive(event.data);
    socket.onclose = (event) => this.#ended(event.code, opened);
  }

  /** Close for good; no state is reported. */
  stop() {
    clearTimeout(this.#timer);
    clearInterval(this.#heartbeat);
    const socket = this.#socket;
    this.#socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close(1000);
  }

  /** Send a message, or return false when there is no connection. */
  send(message) {
    if (!this.isOpen) return false;
    this.#socket.send(JSON.stringify({ ...message, timestamp: new Date().toISOString() }));
    return true;
  }

  #receive(text) {
    this.#heardAt = Date.now();
    const message = JSON.parse(text);
    if (message.type === "CONNECT") {
      this.#attempt = 0;
      this.#beat(message.data.heartbeatIntervalMs);
    } else if (message.type === "DISCONNECT") {
      this.#farewell = message.data;
    }
    this.onMessage(message);
  }

  // A connection whose other end vanished without a word looks open for minutes: two missed answers end it here.
  #beat(intervalMs) {
    clearInterval(this.#heartbeat);
    this.#heartbeat = setInterval(() => {
      if (Date.now() - this.#heardAt > 2.5 * intervalMs) {
        this.stop();
        this.#ended(1006, true);
      } else {
        this.send({ type: "HEARTBEAT", data: {} });
      }
    }, intervalMs);
  }

  #ended(code, opened) {
    clearInterval(this.#heartbeat);
    this.#socket = null;
    // DISCONNECT brings a sentence in the reader's language; a close frame's own reason is for machines.
    const reason = this.#farewell?.reason ?? "";
    if (code === UNAUTHORIZED) return this.onState({ name: "rejected" });
    if (!RECONNECTABLE.has(code)) return this.onState({ name: "closed", code, reason });
    const ceiling = Math.min(BACKOFF_MAX_MS, BACKOFF_MS * 2 ** this.#attempt++);
    // Jitter, so that a thousand pages do not come back in the same instant.
    const wait = Math.max(this.#farewell?.retryAfterMs ?? 0, ceiling * (0.5 + Math.random() / 2));
    this.#timer = setTimeout(() => this.start(), wait);
    this.onState({ name: "waiting", until: Date.now() + wait, code, reason, opened });
  }
}
