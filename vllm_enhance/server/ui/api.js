// Talking to /v1/enhance with the key that the person typed. The key lives as long as the tab.

const BASE = new URL("../v1/enhance/", document.baseURI);
const SLOT = "vllm-enhance-key";
const PATIENCE = 20000;

export class Refused extends Error {}

export const keptKey = () => sessionStorage.getItem(SLOT) ?? "";
export const keepKey = (key) => (key ? sessionStorage.setItem(SLOT, key) : sessionStorage.removeItem(SLOT));

export async function ask(path, { method = "GET", query = {}, body = null } = {}) {
  const url = new URL(path, BASE);
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
  const headers = {};
  if (keptKey()) headers.Authorization = `Bearer ${keptKey()}`;
  if (body !== null) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(url, {
      method, headers, body: body === null ? undefined : JSON.stringify(body), cache: "no-store",
      credentials: "same-origin", redirect: "error", signal: AbortSignal.timeout(PATIENCE),
    });
  } catch (error) {
    throw new Error(error.name === "TimeoutError" ? "The server does not answer in time." : "The server cannot be reached.");
  }
  if (response.status === 401 || response.status === 403) throw new Refused("The server refuses this key.");
  let answer = null;
  try { answer = await response.json(); } catch { /* not JSON: told by status below */ }
  // health says 503 with a whole report in it
  if (!response.ok && !(answer && answer.components?.length)) {
    throw new Error(answer?.error?.message ?? answer?.detail ?? `The server answered ${response.status}.`);
  }
  return answer;
}
