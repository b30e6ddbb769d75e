// Amounts and times as people read them. Amounts are whole minor units; no fraction is ever calculated with.

const THIN = "\u202f";

// "12 345.67" for 1234567 at scale 2.
export function money(minor, scale) {
  if (!Number.isSafeInteger(minor)) {
    throw new RangeError(`${minor} is beyond what a page can show exactly`);
  }
  const digits = String(Math.abs(minor)).padStart(scale + 1, "0");
  const whole = digits.slice(0, digits.length - scale).replace(/\B(?=(\d{3})+$)/g, THIN);
  const part = scale > 0 ? `.${digits.slice(-scale)}` : "";
  return `${minor < 0 ? "\u2212" : ""}${whole}${part}`;
}

// Whole minor units of what somebody typed; null where it is no positive amount of at most `scale` decimals.
export function parseMoney(text, scale) {
  const match = /^(\d{1,13})(?:[.,](\d*))?$/.exec(text.replace(/[\s\u202f]/g, ""));
  if (match === null || (match[2] ?? "").length > scale) {
    return null;
  }
  const minor = Number(match[1] + (match[2] ?? "").padEnd(scale, "0"));
  return Number.isSafeInteger(minor) && minor > 0 ? minor : null;
}

// "2 d 3 h", "45 min 10 s", "8 s".
export function duration(seconds) {
  const left = Math.max(0, Math.ceil(seconds));
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => left >= size);
  if (first === -1) {
    return "0 s";
  }
  const [name, size] = units[first];
  const text = `${Math.floor(left / size)} ${name}`;
  const next = units[first + 1];
  const rest = next === undefined ? 0 : Math.floor((left % size) / next[1]);
  return rest > 0 ? `${text} ${rest} ${next[0]}` : text;
}

const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const TIME = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

// Date and time of day of an RFC 3339 text.
export function moment(text) {
  return MOMENT.format(new Date(text));
}

// Time of day, to the second.
export function timeOfDay(date) {
  return TIME.format(date);
}
