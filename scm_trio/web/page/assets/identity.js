// Who asks, and in which session: the token and the session id of this tab.

const TOKEN = "scm.token";
const SESSION = "scm.session";
const USED = "scm.session.used"; // the id of the last session in which something was asked

/** A random id; randomUUID exists on https and localhost only. */
export function newId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The claims of a JWT, unverified; null when it is none. */
export function claimsOf(token) {
  const parts = token.split(".");
  if (parts.length !== 3 || !/^[\w-]+$/.test(parts[1])) return null;
  try {
    const binary = atob(parts[1].replace(/-/g, "+").replace(/_/g, "/"));
    const claims = JSON.parse(new TextDecoder().decode(Uint8Array.from(binary, (char) => char.charCodeAt(0))));
    return typeof claims === "object" ? claims : null;
  } catch {
    return null;
  }
}

/** Move `#token=…` from the address bar, where it would be seen and bookmarked, to this tab's storage. */
export function takeTokenFromAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  history.replaceState(null, "", location.pathname + location.search);
  if (claimsOf(token)) saveToken(token);
}

export const savedToken = () => sessionStorage.getItem(TOKEN);
export const saveToken = (token) => sessionStorage.setItem(TOKEN, token);
export const forgetToken = () => sessionStorage.removeItem(TOKEN);

export const sessionId = () => sessionStorage.getItem(SESSION) ?? newSession();

/** Whether nothing was asked in the session yet. */
export const isNewSession = () => sessionStorage.getItem(USED) !== sessionId();
export const useSession = () => sessionStorage.setItem(USED, sessionId());

export function newSession() {
  const id = newId();
  sessionStorage.setItem(SESSION, id);
  return id;
}
