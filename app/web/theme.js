// The appearance that was chosen, before anything is painted. Without a choice the system's holds.
(() => {
  const KEY = "derain-appearance";
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // storage is blocked: the choice lasts as long as the page
    }
  };
  const isDark = () => (root.dataset.appearance ? root.dataset.appearance === "dark" : system.matches);
  if (["light", "dark"].includes(stored())) root.dataset.appearance = stored();

  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("appearance");
    const show = () => button.setAttribute("aria-checked", String(isDark()));
    button.addEventListener("click", () => {
      root.dataset.appearance = isDark() ? "light" : "dark";
      try {
        localStorage.setItem(KEY, root.dataset.appearance);
      } catch {
        // as above
      }
      show();
    });
    system.addEventListener("change", show);
    show();
  });
})();
