-- Health of a MoEDeployment for Argo CD, from its conditions: Stalled waits for a person, Reconciling for the operator.
local health = {status = "Progressing", message = "the operator has not answered yet"}
local status = obj.status
if status == nil or status.conditions == nil then
  return health
end

local conditions = {}
for _, condition in ipairs(status.conditions) do
  conditions[condition.type] = condition
end
local ready, stalled, reconciling = conditions.Ready, conditions.Stalled, conditions.Reconciling

if ready == nil or status.observedGeneration ~= obj.metadata.generation then
  health.message = "the operator has not looked at this spec yet"
elseif stalled ~= nil and stalled.status == "True" then
  health.status = "Degraded"
  health.message = stalled.reason .. ": " .. stalled.message
elseif ready.reason == "Paused" then
  health.status = "Suspended"
  health.message = ready.message
elseif reconciling ~= nil and reconciling.status == "True" then
  health.message = reconciling.reason .. ": " .. reconciling.message
elseif ready.status == "True" then
  health.status = "Healthy"
  health.message = ready.message
else
  health.message = ready.reason .. ": " .. ready.message
end
return health
