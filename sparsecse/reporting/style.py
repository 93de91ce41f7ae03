"""The style sheet of the report: narrow and wide, light and dark, colours that colour-blind readers tell apart."""

STYLE = """
:root{color-scheme:light dark;
 --paper:#fbfaf8;--panel:#fff;--ink:#1b1f24;--muted:#59616b;--line:#dcdad5;--track:#eceae6;--code:#f1efeb;
 --dense:#7d8590;--pruned:#0b5cad;--gain:#0b5cad;--loss:#b0440a;--warn:#fdf3e3;--warnline:#d99a3a;
 --l0:#0b5cad;--l1:#b0440a;--l2:#00735c;--l3:#8a3a7c;
 --s0:#d6e4f3;--s1:#aecbe8;--s2:#7aa8d6;--s3:#437fbb;--s4:#17538a}
@media (prefers-color-scheme:dark){:root{
 --paper:#13161a;--panel:#1a1e24;--ink:#e8eaed;--muted:#a3abb5;--line:#343a43;--track:#2a2f37;--code:#242931;
 --dense:#8f98a3;--pruned:#6fb1f5;--gain:#7cb8ff;--loss:#ffa366;--warn:#2d2417;--warnline:#b98233;
 --l0:#7cb8ff;--l1:#ffa366;--l2:#5cc9ae;--l3:#dd9ad0;
 --s0:#22374e;--s1:#2d517a;--s2:#3f74ab;--s3:#639dd6;--s4:#a3cdf6}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);
 font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main,header,footer{max-width:72rem;margin:0 auto;padding:0 1rem}
@media (min-width:48rem){main,header,footer{padding:0 2rem}}
header{padding-top:2.5rem}
h1{font-size:clamp(1.6rem,1.2rem + 2vw,2.4rem);line-height:1.15;letter-spacing:-.02em;margin:.25rem 0 .5rem;
 overflow-wrap:anywhere;text-wrap:balance}
h2{font-size:1.35rem;letter-spacing:-.01em;margin:0 0 .35rem}
h3{font-size:1rem;margin:1.75rem 0 .25rem}.pair h3:first-child{margin-top:.25rem}
p{margin:.35rem 0 .75rem;max-width:44rem;overflow-wrap:anywhere}
.eyebrow{margin:0;font-size:.8rem;letter-spacing:.08em;text-transform:uppercase;color:var(--muted)}
.lead{font-size:1.1rem;color:var(--muted)}
nav{margin:1rem 0 0;display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;font-size:.9rem}
a{color:var(--pruned)}
a:focus-visible,summary:focus-visible,.scroll:focus-visible{outline:2px solid var(--pruned);outline-offset:2px}
section{border-top:1px solid var(--line);margin-top:2.25rem;padding-top:1.75rem}
.tiles{list-style:none;margin:1.5rem 0 0;padding:0;display:grid;gap:.75rem;
 grid-template-columns:repeat(auto-fill,minmax(min(100%,10.25rem),1fr))}
.tiles li{background:var(--panel);border:1px solid var(--line);border-radius:.5rem;padding:.75rem .85rem;min-width:0}
.tiles span{display:block}
.tiles .name{font-size:.8rem;line-height:1.35;color:var(--muted);min-height:2.7em}
.tiles .value{font-size:1.45rem;font-weight:650;letter-spacing:-.01em;line-height:1.3}
.tiles .from{font-size:.8rem;color:var(--muted)}
.value,.from,td.n,th.n,.number,code{font-variant-numeric:tabular-nums}
b.gain,td.gain{color:var(--gain)}b.loss,td.loss{color:var(--loss)}
.pair{display:grid;gap:1rem 2.5rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));align-items:start}
.pair>*{min-width:0}
figure{margin:.5rem 0}
figcaption{font-size:.85rem;color:var(--muted);margin-top:.35rem}
svg{display:block;width:100%;max-width:27rem;height:auto;overflow:visible}
svg text{font-size:12px;fill:var(--ink)}
svg .small{font-size:11px;fill:var(--muted)}svg .strong{font-weight:650}
svg .track{fill:var(--track)}svg .pruned,svg circle.pruned{fill:var(--pruned)}svg .dense{fill:var(--dense)}
svg .gain{fill:var(--gain)}svg .loss{fill:var(--loss)}svg .same{fill:var(--dense)}
svg .axis{stroke:var(--muted);stroke-width:1}svg .grid{stroke:var(--line);stroke-width:1}
svg .zero{stroke:var(--ink);stroke-width:1}svg .mark{stroke:var(--ink);stroke-width:2}
svg .way{stroke:var(--muted);stroke-width:1.5;stroke-dasharray:4 3}
svg .bound{stroke:var(--loss);stroke-width:1.25;stroke-dasharray:2 3}
svg .chosen{stroke:var(--muted);stroke-width:1.5;stroke-dasharray:6 4}
svg path.line{fill:none;stroke-width:2}svg path.band{stroke:none;opacity:.16}
svg .line0{fill:var(--l0);stroke:var(--l0)}svg .line1{fill:var(--l1);stroke:var(--l1)}
svg .line2{fill:var(--l2);stroke:var(--l2)}svg .line3{fill:var(--l3);stroke:var(--l3)}
svg .s0{fill:var(--s0)}svg .s1{fill:var(--s1)}svg .s2{fill:var(--s2)}svg .s3{fill:var(--s3)}svg .s4{fill:var(--s4)}
svg .gone{fill:none;stroke:var(--line);stroke-width:1}
svg .cross{stroke:var(--loss);stroke-width:1.75;stroke-linecap:round}
.scroll{overflow-x:auto;margin:.5rem 0}
table{border-collapse:collapse;font-size:.9rem;min-width:min(100%,20rem)}
caption{text-align:left;color:var(--muted);font-size:.85rem;padding-bottom:.25rem}
th,td{padding:.3rem .9rem .3rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
th{font-weight:600}thead th{color:var(--muted);font-size:.8rem}
th.n,td.n{text-align:right;white-space:nowrap}
tr.minor th{font-weight:400;padding-left:1rem;color:var(--muted)}tr.total th,tr.total td{font-weight:650}
th:last-child,td:last-child{padding-right:.15rem}
@media (max-width:30rem){th,td{padding-right:.6rem}table{font-size:.85rem}}
tbody th{min-width:5.5rem;max-width:22rem;overflow-wrap:anywhere}
.wide{width:100%}.hash,.setting{overflow-wrap:anywhere;min-width:9rem}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.86em}
code{background:var(--code);border-radius:.25rem;padding:.08em .3em;overflow-wrap:anywhere}
pre{background:var(--code);border-radius:.5rem;padding:.75rem .9rem;margin:.5rem 0;white-space:pre-wrap;
 overflow-wrap:anywhere}
pre code{background:none;padding:0}
details{border:1px solid var(--line);border-radius:.5rem;margin:.5rem 0;background:var(--panel)}
summary{cursor:pointer;padding:.5rem .85rem;font-weight:600;font-size:.92rem}
details>div{padding:0 .85rem .6rem}
.warnings{background:var(--warn);border-left:4px solid var(--warnline);border-radius:.25rem;padding:.6rem 1rem;
 margin:1.25rem 0 0}
.note{color:var(--muted);font-size:.85rem;margin:0}
tr.group th{padding-top:.8rem;color:var(--muted)}
.warnings ul,.missing{margin:.25rem 0;padding-left:1.2rem;overflow-wrap:anywhere}
footer{color:var(--muted);font-size:.85rem;margin-top:2.5rem;padding-bottom:2.5rem}
@media print{body{background:#fff}section,figure,tr{break-inside:avoid}.scroll{overflow:visible}nav{display:none}}
"""
