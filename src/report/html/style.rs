//! How the page looks: on paper, on a phone, in the light and in the dark.

/// The page's style. Series are the colors of Okabe and Ito, darker or lighter so that each stands
/// out from the page.
pub const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2127;--muted:#5b6570;--line:#d9dee3;--grid:#e8ebee;--paper:#fff;--box:#f6f7f9;--link:#0b5cad;\
--c0:#0072b2;--c1:#c44e00;--c2:#00805d;--c3:#b0528a;--c4:#a87200;--c5:#3a8fc7;--c6:#5b5b5b;--c7:#7a4b12;--c8:#98a1aa}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--muted:#9aa5b0;--line:#343b43;--grid:#262c33;--paper:#14181c;--box:#1b2026;--link:#7db8f0;\
--c0:#56b4e9;--c1:#f08a4b;--c2:#3cc79a;--c3:#e39ac6;--c4:#f0c04a;--c5:#9ad1f5;--c6:#b9c0c7;--c7:#cf9f66;--c8:#67717b}}\
*{box-sizing:border-box}\
html{-webkit-text-size-adjust:100%}\
body{margin:0 auto;max-width:1180px;padding:1.5rem 1.25rem 4rem;background:var(--paper);color:var(--ink);\
font:15px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;overflow-wrap:break-word}\
h1{font-size:1.75rem;line-height:1.2;margin:.2rem 0 .4rem;letter-spacing:-.01em;overflow-wrap:anywhere}\
h2{font-size:1.25rem;line-height:1.3;margin:3rem 0 .6rem;padding-top:.9rem;border-top:1px solid var(--line)}\
h3{font-size:1rem;margin:1.6rem 0 .4rem}\
p{margin:.5rem 0;max-width:75ch}a{color:var(--link)}\
.over{color:var(--muted);margin:0}.lead{font-size:1.05rem}\
nav{display:flex;flex-wrap:wrap;gap:.2rem 1rem;margin:1rem 0 0;font-size:.9rem}nav a{text-decoration:none}nav a:hover{text-decoration:underline}\
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(120px,1fr));gap:.75rem;margin:1.2rem 0}\
.tiles div{background:var(--box);border-radius:8px;padding:.6rem .8rem}.tiles b{display:block;font-size:1.3rem;font-weight:600;font-variant-numeric:tabular-nums}\
.tiles span{color:var(--muted);font-size:.82rem}\
.scroll{overflow-x:auto;margin:.8rem 0;border:1px solid var(--line);border-radius:8px;max-width:100%}\
table{border-collapse:separate;border-spacing:0;width:100%;font-size:.88rem;font-variant-numeric:tabular-nums lining-nums}\
th,td{padding:.42rem .75rem;text-align:right;vertical-align:top;white-space:nowrap;border-bottom:1px solid var(--line)}\
tr:last-child>*{border-bottom:0}thead th{color:var(--muted);font-weight:600;background:var(--box);vertical-align:bottom}\
tbody th{font-weight:500}th.w,td.w{text-align:left;white-space:normal;overflow-wrap:anywhere;min-width:5.5rem;max-width:26rem}\
th:first-child{position:sticky;left:0;background:var(--paper);z-index:1;min-width:13rem;max-width:min(20rem,42vw)}\
thead th:first-child{background:var(--box)}\
td small{display:block;color:var(--muted);font-size:.78rem;line-height:1.35}\
.note{color:var(--muted);font-size:.86rem}.notes{padding-left:1.1rem;font-size:.9rem}\
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,320px),1fr));gap:1rem 1.2rem;margin:.8rem 0;align-items:start}\
.two{grid-template-columns:repeat(auto-fill,minmax(min(100%,420px),1fr))}\
figure{margin:0;min-width:0}figcaption{font-size:.84rem;color:var(--muted);overflow-wrap:anywhere;margin-bottom:.15rem}\
.chart svg{display:block;width:100%;max-width:440px;height:auto}\
svg text{font-size:11px;fill:var(--muted);font-variant-numeric:tabular-nums}svg text.n{fill:var(--ink)}svg text.t{fill:var(--muted)}\
.g{stroke:var(--grid);fill:none}.ax{stroke:var(--muted);fill:none;stroke-width:1}.rule{stroke:var(--muted);stroke-dasharray:3 3;fill:none}\
.l{stroke:currentColor;fill:none;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}.d{fill:currentColor}.p{fill-opacity:.5}\
.s0{color:var(--c0)}.s1{color:var(--c1)}.s2{color:var(--c2)}.s3{color:var(--c3)}.s4{color:var(--c4)}.s5{color:var(--c5)}.s6{color:var(--c6)}.s7{color:var(--c7)}.s8{color:var(--c8)}\
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.25rem 1.2rem;padding:0;margin:.6rem 0;font-size:.86rem}.legend li{display:flex;gap:.45rem;align-items:center;overflow-wrap:anywhere}\
.key{width:28px;height:10px;flex:none}\
.faces{display:grid;grid-template-columns:repeat(auto-fill,minmax(132px,1fr));gap:1rem;margin:.8rem 0}\
.faces img,.maps img{display:block;max-width:100%;height:auto;border-radius:6px;background:var(--box)}\
.faces figcaption{font-size:.78rem;margin-top:.3rem;font-variant-numeric:tabular-nums}.faces b{color:var(--ink);font-weight:600}\
.maps{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));gap:1rem;margin:.8rem 0}\
details{border:1px solid var(--line);border-radius:8px;margin:.5rem 0;padding:0 .9rem}summary{cursor:pointer;padding:.5rem 0;font-weight:500;overflow-wrap:anywhere}\
details[open]{padding-bottom:.6rem}pre{overflow-x:auto;font:.8rem/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;margin:.3rem 0}\
footer{margin-top:3rem;padding-top:1rem;border-top:1px solid var(--line);color:var(--muted);font-size:.86rem}\
@media(max-width:600px){body{padding:1rem .9rem 3rem}h1{font-size:1.4rem}th,td{padding:.38rem .55rem}th:first-child{min-width:6.5rem;max-width:36vw}}\
@media print{.scroll{overflow:visible;border:0}th:first-child{position:static}details{break-inside:avoid}h2{break-after:avoid}}";
