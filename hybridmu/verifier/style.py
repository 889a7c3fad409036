"""Style of the page: light and dark as the reader's system is, black on white on paper."""

STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --paper: #fff; --line: #d0d7de; --soft: #f6f8fa;
  --good: #1a7f37; --bad: #b3261e; --middle: #7a5200; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --paper: #0d1117; --line: #3d444d; --soft: #161b22;
    --good: #56d364; --bad: #ff8f88; --middle: #e3b341; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 52rem; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 1.5rem 0 .4rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: .8rem 0 .2rem; }
dl { margin: 0; } dl div { display: grid; grid-template-columns: 12rem 1fr; gap: .2rem 1rem; padding: .15rem 0; }
dt { font-weight: 600; } dd { margin: 0; font-variant-numeric: tabular-nums; }
@media (max-width: 34rem) { dl div { grid-template-columns: 1fr; gap: 0; padding: .3rem 0; } }
.code dd, li { overflow-wrap: anywhere; } .code dd, ul.code { font: .85rem/1.5 ui-monospace, monospace; }
ul { margin: .3rem 0; padding-left: 1.2rem; } p { margin: .3rem 0; }
.banner { padding: .6rem .8rem; border: 1px solid var(--line); border-left: .5rem solid; background: var(--soft); }
.good { border-left-color: var(--good); } .bad { border-left-color: var(--bad); }
.middle { border-left-color: var(--middle); }
@media print {
  :root { color-scheme: light; --ink: #000; --paper: #fff; --line: #999; --soft: #fff; }
  @page { size: A4; margin: 14mm; }
  body { max-width: none; padding: 0; font-size: 9pt; } h1 { font-size: 14pt; } h2 { font-size: 11pt; }
  dl div, li, .banner { break-inside: avoid; } h2, h3 { break-after: avoid; }
}
"""
