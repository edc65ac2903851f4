// What the settings say of an answer. An empty field leaves it to the server, which knows its own limits.

const FIELDS = [
  ["length", "max_tokens", "the longest answer is a whole number of tokens from 1 on"],
  ["temperature", "temperature", "the temperature is a number from 0 to 2"],
];
const fieldOf = (id) => document.getElementById(id);

// What a field expects that holds something else, or "".
export function wrongSetting() {
  const wrong = FIELDS.find(([id]) => !fieldOf(id).validity.valid);
  return wrong ? `Settings: ${wrong[2]}.` : "";
}

// As the server takes them: {max_tokens, temperature}, each only where its field is filled.
export function options() {
  const filled = FIELDS.filter(([id]) => fieldOf(id).value !== "");
  return Object.fromEntries(filled.map(([id, name]) => [name, Number(fieldOf(id).value)]));
}
