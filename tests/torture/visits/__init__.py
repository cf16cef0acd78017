"""Whole visits under the axe: money, lines, reports, news and books, while the service is killed where it hurts."""
