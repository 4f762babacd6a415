// What was said before this page was opened: the branch of a session that ends with its newest message.

const PAGE = 50;
const LIMIT_MS = 10_000;

export class History {
  #session;
  #headers;
  #wanted; // the message that the branch goes on with, upwards; undefined: the newest, whichever it is
  #before = null;
  #over;

  /** `isEmpty`: nothing was said yet, which is known without asking. */
  constructor(session, headers, isEmpty) {
    this.#session = session;
    this.#headers = headers;
    this.#over = isEmpty;
  }

  get isOver() {
    return this.#over;
  }

  /** The messages before those that were told last, the oldest first. A session that nobody knows yet has none. */
  async earlier() {
    const told = [];
    while (told.length === 0 && !this.#over) {
      const page = await this.#fetch();
      for (const message of page.items.reverse()) {
        if (this.#wanted !== undefined && message.messageId !== this.#wanted) continue;
        told.unshift(message);
        this.#wanted = message.parentMessageId ?? null;
      }
      this.#before = page.next;
      this.#over = page.next === null || this.#wanted === null;
    }
    return told;
  }

  async #fetch() {
    const url = new URL(`scm/ai/sessions/${encodeURIComponent(this.#session)}/messages`, document.baseURI);
    url.searchParams.set("limit", PAGE);
    if (this.#before !== null) url.searchParams.set("before", this.#before);
    const answer = await fetch(url, { headers: this.#headers, signal: AbortSignal.timeout(LIMIT_MS) });
    if (answer.status === 404) return { items: [], next: null };
    if (!answer.ok) throw new Error((await answer.json()).message);
    return answer.json();
  }
}
