// Runs before the first paint, so that a chosen theme never flashes; everything else is a module.
try {
  const chosen = JSON.parse(localStorage.getItem("streamwatch.theme"));
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage may be forbidden, or hold anything; the system's preference then holds.
}
