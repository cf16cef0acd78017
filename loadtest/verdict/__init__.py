"""What judges a load test: reads its run folder, and says whether it passed, and why not.

folder          the run folder as typed objects (`facts`)
samples         a verdict on each request; `promises`: what became of the holds
availability    good / valid, by class and window
audit/          oversold, lost, money, agreement, load of the HIS
server_sli      the service's own SLI beside the client's
recovery        how long after a fault
conclusion      all of it together: the outcome and its reasons
screen, document, page, pictures/     the table, verdict.json, report.html
"""
