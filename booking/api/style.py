"""The style of the documentation pages, kept inside them so that nothing is fetched."""

STYLE = """
:root{--bg:#fff;--ink:#1c2330;--soft:#5b6678;--line:#e2e7ef;--panel:#f6f8fb;--link:#0b5cad;--get:#0f7b5f;--post:#0b5cad;
--put:#9a5b00;--delete:#b3261e;--retry:#8a5a00;--ok:#0f7b5f}
@media(prefers-color-scheme:dark){:root{--bg:#12161d;--ink:#e3e8f0;--soft:#9aa6b8;--line:#2a3240;--panel:#1a202a;--link:#7db7f5;
--get:#4cc9a0;--post:#7db7f5;--put:#e0a84a;--delete:#f2857c;--retry:#e0b45a;--ok:#4cc9a0}}
*{box-sizing:border-box}html{scroll-padding-top:1rem}
body{margin:0;display:grid;grid-template-columns:19rem minmax(0,1fr);background:var(--bg);color:var(--ink);
font:15px/1.55 system-ui,-apple-system,"Segoe UI","Noto Sans SC","PingFang SC","Microsoft YaHei",sans-serif}
nav{position:sticky;top:0;height:100vh;overflow:auto;padding:1.25rem 1rem;background:var(--panel);
border-right:1px solid var(--line)}
nav b{display:block;font-size:1.1rem;margin-bottom:.75rem;letter-spacing:.01em}
nav summary{cursor:pointer;color:var(--soft);margin-top:.5rem;text-transform:capitalize}
nav a{display:flex;gap:.5rem;align-items:baseline;padding:.18rem .35rem;border-radius:5px;color:var(--ink);text-decoration:none;
font-size:.86rem}
nav a:hover{background:var(--line)}
main{padding:1.5rem 2.25rem 5rem;max-width:64rem}
h1{font-size:1.7rem;margin:.2rem 0 1rem}h1 small,h4 small,td small{color:var(--soft);font-weight:400}
h2{margin:2.6rem 0 .6rem;padding-bottom:.3rem;border-bottom:2px solid var(--line);text-transform:capitalize}
h3{margin:0 0 .3rem;font-size:1.02rem;overflow-wrap:anywhere}h4{margin:1.1rem 0 .35rem;font-size:.9rem}
h1 [lang=zh],h2 [lang=zh]{color:var(--soft);font-weight:400;font-size:.8em;margin-left:.4rem}
td [lang=zh]{color:var(--soft)}
section{margin:1.1rem 0;padding:1rem 1.15rem;border:1px solid var(--line);border-radius:9px}
p{margin:.35rem 0 .6rem}a{color:var(--link)}
code,pre,a.code,a.type,var{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.88em;font-style:normal}
p code,li code,td code{background:var(--panel);border:1px solid var(--line);border-radius:4px;padding:0 .25em}
h3 code{font-size:1rem}var{color:var(--put)}h3 var{font-size:1em}
pre{background:var(--panel);border:1px solid var(--line);border-radius:7px;padding:.7rem .9rem;overflow:auto}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem}
th{text-align:left;color:var(--soft);font-weight:600;font-size:.8rem}
th,td{padding:.42rem .7rem .42rem 0;border-bottom:1px solid var(--line);vertical-align:top}
tbody tr:last-child td{border-bottom:0}tr:target td{background:var(--panel)}
.fields td:first-child{width:32%}.fields td:nth-child(2){width:24%;overflow-wrap:anywhere}
.method{font:700 .72rem/1 ui-monospace,Menlo,Consolas,monospace;min-width:2.9rem;color:var(--get)}
h3 .method{font-size:.9rem;margin-right:.35rem}
.post{color:var(--post)}.put{color:var(--put)}.delete{color:var(--delete)}
.pill{display:inline-block;border:1px solid var(--line);border-radius:99px;padding:0 .5rem;font-size:.74rem;color:var(--soft);
white-space:nowrap}
.retry{color:var(--retry);border-color:currentColor}.must{color:var(--delete);border-color:currentColor}
.ok{color:var(--ok);border-color:currentColor}
.errors{list-style:none;padding:0;margin:.4rem 0}.errors li{padding:.15rem 0}.errors b{display:inline-block;min-width:2.6rem}
.errors a{margin-right:.5rem}details>summary{cursor:pointer}
@media(max-width:56rem){body{display:block}nav{position:static;height:auto;border-right:0;border-bottom:1px solid var(--line)}
main{padding:1rem}}
@media print{nav{display:none}body{display:block}section{break-inside:avoid}}
""".replace("\n", "")
