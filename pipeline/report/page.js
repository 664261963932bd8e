"use strict";
(async () => {
  const charts = document.querySelectorAll("[data-chart]");
  const say = (text) => { for (const note of document.querySelectorAll(".undrawn")) note.textContent = text; };
  try {
    const packed = document.getElementById("plotly").textContent.trim();
    const bytes = Uint8Array.from(atob(packed), (sign) => sign.charCodeAt(0));
    const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(unpacked).text();
    document.head.append(script);
  } catch (error) {
    say("This browser cannot unpack the charts; the tables hold the same.");
    document.body.dataset.drawn = "no";
    return;
  }
  const config = { displayModeBar: false, doubleClick: false, responsive: true, scrollZoom: false };
  for (const chart of charts) {
    const figure = JSON.parse(document.getElementById(chart.id + "-data").textContent);
    chart.replaceChildren();
    await Plotly.newPlot(chart, figure.data, figure.layout, config);
    await new Promise((done) => setTimeout(done));
  }
  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
    for (const chart of charts) Plotly.Plots.resize(chart);
  });
  document.body.dataset.drawn = "yes";
})();
