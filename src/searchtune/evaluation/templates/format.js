/** Figures as evaluation/wording.py writes them: three decimals, more where they would hide the sign. */
const NOISE = 1e-9;
function figure(x) {
  if (x === null || x === undefined) return "–";
  if (Math.abs(x) <= NOISE) return "0.000";
  let digits = 3;
  while (!Number(x.toFixed(digits))) digits += 1;
  return x.toFixed(digits).replace("-", "−");
}
function signed(x) { return (x > NOISE ? "+" : "") + figure(x); }
